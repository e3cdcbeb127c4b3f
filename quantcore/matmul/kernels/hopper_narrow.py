"""The sums of a narrow tile of `hopper_product`: those for up to a few hundred tokens.

A tile is 128 of L x 16, 32, 64 or 128 of R, 128 columns at a time. L is the weight, and of R a tile holds as many as
there are tokens, so nothing is multiplied in vain; where blocks of both sides have scales R is the weight, 128 rows a
tile, as in wide tiles. What is slow is the way of the weight from memory, so stages are as many as shared memory holds,
and a warp asks for weights before the kernel before this one has ended, where nobody writes them meanwhile.

Packed words are read a block ahead, while the tensor cores multiply; a stage is let go when all that was read of it has
been multiplied. Sums are kept as in wide tiles: those of integers in the tensor cores' registers, those of fp8 or under
blocks' scales taken out each 128 columns.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantcore.matmul.kernels.hopper_bring import words_of_block
from quantcore.matmul.kernels.hopper_results import (
    asked_for,
    left_block_scale,
    right_block_scale,
    scaled,
)
from quantcore.matmul.kernels.hopper_unpack import unpacked_codes


@gluon.jit
def sums_narrow(
    l_bufs, r_bufs, s_bufs, full, empty, bl_ptr, br_ptr, at_l, begin_r, R, L, step, begin, end, blocks,
    SIDE: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr, BR: gl.constexpr,
    STAGES: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """Those of 64 of L, at_l, and of a tile's rows of R, over blocks begin to end, and the step behind them."""
    kind: gl.constexpr = gl.int32 if IS_INT else gl.float32
    apart: gl.constexpr = BL or BR or not IS_INT
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    shape: gl.constexpr = [l_bufs.shape[1], r_bufs.shape[1]]
    row_l, row_r = gl.minimum(at_l, L - 1), gl.minimum(begin_r, R - 1)
    sums = gl.zeros(shape, gl.float32 if apart else kind, layout)
    if PACKED:
        words, bl = words_of_block(l_bufs, s_bufs, full, step, True, SIDE, BL != 0, STAGES, layout)
    else:
        bl = left_block_scale(bl_ptr, row_l, begin, blocks, BL)
    br = right_block_scale(br_ptr, row_r, begin, blocks, BR)
    for block in range(begin, end):
        stage, then = step % STAGES, gl.minimum(block + 1, blocks - 1)
        if PACKED:
            left = unpacked_codes(words, operand, IS_INT)
        else:
            mbarrier.wait(full.index(stage), (step // STAGES) & 1)
            left = l_bufs.index(2 * stage + SIDE)
        right = r_bufs.index(stage).permute([1, 0])
        step += 1
        if apart:
            none = gl.zeros(shape, kind, layout)
            doing = warpgroup_mma(left, right, none, use_acc=False, is_async=True)
        else:
            doing = warpgroup_mma(left, right, sums, use_acc=block > begin, is_async=True)
        br_then = right_block_scale(br_ptr, row_r, then, blocks, BR)
        if PACKED:
            words, bl_then = words_of_block(
                l_bufs, s_bufs, full, step, block + 1 < end, SIDE, BL != 0, STAGES, layout
            )  # fmt: skip
        else:
            bl_then = asked_for(left_block_scale(bl_ptr, row_l, then, blocks, BL)) if BL else 1.0
        part = warpgroup_mma_wait(0, deps=(doing,))
        mbarrier.arrive(empty.index(stage), count=1)
        if apart:
            sums += scaled(part, bl, br, BL, BR, PACKED)
        else:
            sums = part
        bl, br = bl_then, br_then
    return sums, step
