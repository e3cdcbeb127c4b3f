"""Codes times codes for up to a few hundred tokens, on Hopper: the product of `hopper_codes` in narrow tiles.

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
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantcore.matmul.kernels.hopper_bring import bring, words_of_block
from quantcore.matmul.kernels.hopper_parts import keep_part, piece_of
from quantcore.matmul.kernels.hopper_results import (
    asked_for,
    left_scale,
    left_scales,
    results,
    right_scale,
    scaled,
    write,
)
from quantcore.matmul.kernels.hopper_unpack import operand_of, planes_of
from quantcore.matmul.kernels.tile_order import place
from quantcore.numbers.kernels.overlap import after_last

STAGES_BYTES = 192 * 1024  # of a program; beside them lies a tile of results, 32 KB at most


def stages(block_l: int, block_r: int, block_k: int, packed: bool, grouped: bool) -> int:
    """As many as shared memory holds; half as many of a packed weight that has groups, or is multiplied by few tokens.
    No other program fits beside one of these in any case: it has all registers."""
    stage = (block_l // 2 if packed else block_l) * block_k + block_r * block_k
    return STAGES_BYTES // (2 * stage if packed and (grouped or 2 * block_r <= block_l) else stage)


@gluon.jit
def _sum_up(
    tensors, SIDE: gl.constexpr, SPLIT: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr,
    BR: gl.constexpr, TURNED: gl.constexpr, SL: gl.constexpr, SR: gl.constexpr, L_ZERO: gl.constexpr,
    R_ZERO: gl.constexpr, BIAS: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr, BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr, GROUP: gl.constexpr, EVEN: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    l_bufs, r_bufs, s_bufs, y_bufs, full, empty, y_desc, parts_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr = tensors[:12]
    zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, R, L, K, whole, splits = tensors[12:]
    grouped: gl.constexpr = PACKED != 0 and BL != 0
    half: gl.constexpr = BLOCK_L // 2
    kind: gl.constexpr = gl.int32 if IS_INT else gl.float32
    apart: gl.constexpr = BL or BR or not IS_INT
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_R, 32])
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    tiles_r, tiles_l, blocks = gl.cdiv(R, BLOCK_R), gl.cdiv(L, BLOCK_L), gl.cdiv(K, BLOCK_K)
    y_buf = y_bufs.index(SIDE)
    after_last(OVERLAP)
    step = 0
    for piece in range(gl.program_id(0), whole + (tiles_r * tiles_l - whole) * splits, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        pid_r, pid_l = place(tile, tiles_r, tiles_l, GROUP)
        begin_l, begin_r = pid_l * BLOCK_L + SIDE * half, pid_r * BLOCK_R
        at_l = begin_l + gl.arange(0, half, gl.SliceLayout(1, layout))
        row_l, row_r = gl.minimum(at_l, L - 1), gl.minimum(begin_r, R - 1)
        sl = left_scales(sl_ptr, at_l, L, SL)
        sums = gl.zeros([half, BLOCK_R], gl.float32 if apart else kind, layout)
        if PACKED:
            words, bl = words_of_block(l_bufs, s_bufs, full, step, True, SIDE, grouped, STAGES, layout)
        else:
            bl = left_scale(bl_ptr, row_l, begin, blocks, BL)
        br = right_scale(br_ptr, row_r, begin, blocks, BR)
        for block in range(begin, end):
            stage, then = step % STAGES, gl.minimum(block + 1, blocks - 1)
            if PACKED:
                sizes, signs = planes_of(words, IS_INT)
                left = operand_of(sizes, signs, operand, IS_INT)
            else:
                mbarrier.wait(full.index(stage), (step // STAGES) & 1)
                left = l_bufs.index(2 * stage + SIDE)
            right = r_bufs.index(stage).permute([1, 0])
            step += 1
            if apart:
                none = gl.zeros([half, BLOCK_R], kind, layout)
                doing = warpgroup_mma(left, right, none, use_acc=False, is_async=True)
            else:
                doing = warpgroup_mma(left, right, sums, use_acc=block > begin, is_async=True)
            br_then = right_scale(br_ptr, row_r, then, blocks, BR)
            if PACKED:
                words, bl_then = words_of_block(
                    l_bufs, s_bufs, full, step, block + 1 < end, SIDE, grouped, STAGES, layout
                )  # fmt: skip
            elif BL:
                bl_then = asked_for(left_scale(bl_ptr, row_l, then, blocks, BL))
            else:
                bl_then = 1.0
            part = warpgroup_mma_wait(0, deps=(doing,))
            mbarrier.arrive(empty.index(stage), count=1)
            if apart:
                sums += scaled(part, bl, br, BL, BR, PACKED)
            else:
                sums = part
            bl, br = bl_then, br_then
        if SPLIT and piece >= whole:
            keep_part(parts_ptr, sums, (piece - whole) * BLOCK_L + SIDE * half, 0, BLOCK_R)
        else:
            at_r = begin_r + gl.arange(0, BLOCK_R, gl.SliceLayout(0, layout))
            y = results(
                sums, at_r, at_l, R, L, sl, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, SL, SR, L_ZERO,
                R_ZERO, BIAS, PACKED, EVEN, y_desc.dtype,
            )  # fmt: skip
            write(y, y_buf, y_desc, begin_l, begin_r, TURNED)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["L", "R", "whole", "splits"])
def multiply_narrow(
    l_desc, r_desc, y_desc, parts_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr,
    R, L, K, whole, splits, SPLIT: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr,
    BR: gl.constexpr, TURNED: gl.constexpr, SL: gl.constexpr, SR: gl.constexpr, L_ZERO: gl.constexpr,
    R_ZERO: gl.constexpr, BIAS: gl.constexpr, EARLY: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr, EVEN: gl.constexpr, OVERLAP: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """EARLY: nobody writes the weight while products run; it is L where y is TURNED, else R. A packed weight's bl is
    described, too."""
    l_bufs = gl.allocate_shared_memory(l_desc.dtype, [2 * STAGES] + l_desc.block_shape, l_desc.layout)
    r_bufs = gl.allocate_shared_memory(r_desc.dtype, [STAGES] + r_desc.block_shape, r_desc.layout)
    s_bufs = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_L], bl_ptr.layout) if PACKED and BL else l_bufs
    y_bufs = gl.allocate_shared_memory(y_desc.dtype, [2] + y_desc.block_shape, y_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=2)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    tensors = (
        l_bufs, r_bufs, s_bufs, y_bufs, full, empty, y_desc, parts_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr, zl_ptr,
        zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, R, L, K, whole, splits,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (_sum_up, (
                tensors, gl.constexpr(0), SPLIT, IS_INT, PACKED, BL, BR, TURNED, SL, SR, L_ZERO, R_ZERO, BIAS,
                BLOCK_R, BLOCK_L, BLOCK_K, STAGES, GROUP, EVEN, OVERLAP,
            )),
            (_sum_up, (
                tensors, gl.constexpr(1), SPLIT, IS_INT, PACKED, BL, BR, TURNED, SL, SR, L_ZERO, R_ZERO, BIAS,
                BLOCK_R, BLOCK_L, BLOCK_K, STAGES, GROUP, EVEN, OVERLAP,
            )),
            (bring, (
                l_desc, l_bufs, bl_ptr, s_bufs, full, empty, R, L, K, whole, splits, gl.constexpr(True), PACKED,
                BL if PACKED else 0, EARLY and TURNED, BLOCK_R, BLOCK_L, BLOCK_K, STAGES, GROUP, OVERLAP,
            )),
            (bring, (
                r_desc, r_bufs, r_desc, r_bufs, full, empty, R, L, K, whole, splits, gl.constexpr(False),
                gl.constexpr(0), gl.constexpr(0), EARLY and not TURNED, BLOCK_R, BLOCK_L, BLOCK_K, STAGES, GROUP,
                OVERLAP,
            )),
        ],
        [4, 1, 1],  # warps of the second group, and those that bring
        [232, 40, 40],  # registers a thread of theirs; the first group has what is left
    )  # fmt: skip
