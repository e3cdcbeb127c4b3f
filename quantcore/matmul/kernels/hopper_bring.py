"""How operands of codes come to a multiprocessor's shared memory, on Hopper, and how the warps that multiply take them.

A warp asks the copy engine for the blocks of one operand, in the order in which they are multiplied, as soon as those
that lay there have been; the weight's from before the kernel before this one has ended, where nobody writes it then.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.hopper_unpack import HELD
from quantcore.matmul.kernels.tile_order import place
from quantcore.numbers.kernels.overlap import after_last, let_next


@gluon.jit
def bring(
    desc, bufs, s_desc, s_bufs, full, empty, R, L, K, whole, splits, LEFT: gl.constexpr, PACKED: gl.constexpr,
    BLOCKS: gl.constexpr, EARLY: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr, BLOCK_K: gl.constexpr,
    SPLIT: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """One operand, in as many boxes a stage as it has buffers, and its groups' scales, of so many BLOCKS each; with
    EARLY from before the kernel before this one has ended. Lets the next kernel begin where no tile is SPLIT."""
    tiles_r, tiles_l, blocks = gl.cdiv(R, BLOCK_R), gl.cdiv(L, BLOCK_L), gl.cdiv(K, BLOCK_K)
    boxes: gl.constexpr = bufs.shape[0] // STAGES
    rows: gl.constexpr = (BLOCK_L if LEFT else BLOCK_R) // boxes
    if not EARLY:
        after_last(OVERLAP)
    step = 0
    for piece in range(gl.program_id(0), whole + (tiles_r * tiles_l - whole) * splits, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        pid_r, pid_l = place(tile, tiles_r, tiles_l, GROUP)
        first = (pid_l if LEFT else pid_r) * (boxes * rows)
        for block in range(begin, end):
            stage = step % STAGES
            came = full.index(stage)
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            scales: gl.constexpr = 4 * BLOCK_L if BLOCKS else 0
            mbarrier.expect(came, boxes * rows * (BLOCK_K // 2 if PACKED else BLOCK_K) + scales)
            if BLOCKS:
                tma.async_copy_global_to_shared(s_desc, [block // BLOCKS * L + first], came, s_bufs.index(stage))
            for box in gl.static_range(boxes):
                row = first + box * rows
                at = [block * L + row, 0] if PACKED else [row, block * BLOCK_K]
                tma.async_copy_global_to_shared(desc, at, came, bufs.index(boxes * stage + box))
            step += 1
    if not (EARLY or SPLIT):
        let_next(OVERLAP)


@gluon.jit
def words_of_block(
    l_bufs, s_bufs, full, step, wanted, SIDE: gl.constexpr, GROUPED: gl.constexpr, STAGES: gl.constexpr,
    layout: gl.constexpr,
):  # fmt: skip
    """Packed words of a half of L when they have come, with their scales; where they are not wanted, whatever lies
    there."""
    stage = step % STAGES
    mbarrier.wait(full.index(stage), (step // STAGES) & 1, pred=wanted)
    words = l_bufs.index(2 * stage + SIDE).load(HELD)
    if GROUPED:
        half: gl.constexpr = s_bufs.shape[1] // 2
        return words, s_bufs.index(stage).slice(SIDE * half, half).load(gl.SliceLayout(1, layout))
    else:
        return words, 1.0
