"""Codes times codes for many tokens, on Hopper: the product of `hopper_codes` in wide tiles.

A tile is 128 of L x 256 of R, 128 columns at a time. Hopper's instruction of 256 rows is not within Triton's reach for
int8, and one of 128 reads its left operand from shared memory twice as often as that allows at full speed. So each
group of warps loads its 64 of L into registers once and multiplies them by both halves of R: what is read in a cycle is
then what an instruction of 256 rows would read.
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

from quantcore.matmul.kernels.hopper_apart import sums_apart
from quantcore.matmul.kernels.hopper_bring import bring
from quantcore.matmul.kernels.hopper_parts import keep_part, piece_of
from quantcore.matmul.kernels.hopper_results import left_scales, results, write
from quantcore.matmul.kernels.hopper_unpack import HELD, operand_of, planes_of
from quantcore.matmul.kernels.tile_order import place
from quantcore.numbers.kernels.overlap import after_last

STAGES = 4  # blocks of both operands in shared memory: no more fit


@gluon.jit
def _sum_up(
    tensors, SIDE: gl.constexpr, SPLIT: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr,
    BR: gl.constexpr, TURNED: gl.constexpr, SL: gl.constexpr, SR: gl.constexpr, L_ZERO: gl.constexpr,
    R_ZERO: gl.constexpr, BIAS: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr, BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr, GROUP: gl.constexpr, EVEN: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    l_bufs, r_bufs, s_bufs, y_bufs, full, empty, y_desc, parts_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr = tensors[:12]
    zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, R, L, K, whole, splits = tensors[12:]
    half: gl.constexpr = BLOCK_L // 2
    rows: gl.constexpr = BLOCK_R // 2
    kind: gl.constexpr = gl.int32 if IS_INT else gl.float32
    apart: gl.constexpr = BL or BR or not IS_INT
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, rows, 32])
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    tiles_r, tiles_l, blocks = gl.cdiv(R, BLOCK_R), gl.cdiv(L, BLOCK_L), gl.cdiv(K, BLOCK_K)
    y_buf = y_bufs.index(SIDE)
    after_last(OVERLAP)
    step = 0
    first = gl.zeros([half, rows], gl.float32 if apart else kind, layout)
    second = gl.zeros([half, rows], gl.float32 if apart else kind, layout)
    for piece in range(gl.program_id(0), whole + (tiles_r * tiles_l - whole) * splits, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        pid_r, pid_l = place(tile, tiles_r, tiles_l, GROUP)
        begin_l, begin_r = pid_l * BLOCK_L + SIDE * half, pid_r * BLOCK_R
        at_l = begin_l + gl.arange(0, half, gl.SliceLayout(1, layout))
        if apart:
            first, second, step = sums_apart(
                l_bufs, r_bufs, s_bufs, full, empty, bl_ptr, br_ptr, begin_l, begin_r, R, L, step, begin, end, blocks,
                SIDE, IS_INT, PACKED, BL, BR, STAGES, layout,
            )  # fmt: skip
        else:
            for block in range(begin, end):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), (step // STAGES) & 1)
                if PACKED:
                    sizes, signs = planes_of(l_bufs.index(2 * stage + SIDE).load(HELD), IS_INT)
                    left = operand_of(sizes, signs, operand, IS_INT)
                else:
                    left = l_bufs.index(2 * stage + SIDE).load(operand)
                one, two = r_bufs.index(2 * stage).permute([1, 0]), r_bufs.index(2 * stage + 1).permute([1, 0])
                doing = warpgroup_mma(left, one, first, use_acc=block > begin, is_async=True)
                doing_too = warpgroup_mma(left, two, second, use_acc=block > begin, is_async=True)
                first, second = warpgroup_mma_wait(0, deps=(doing, doing_too))
                mbarrier.arrive(empty.index(stage), count=1)
                step += 1
        if SPLIT and piece >= whole:
            row_part = (piece - whole) * BLOCK_L + SIDE * half
            keep_part(parts_ptr, first, row_part, 0, BLOCK_R)
            keep_part(parts_ptr, second, row_part, rows, BLOCK_R)
        else:
            sl = left_scales(sl_ptr, at_l, L, SL)
            for side in gl.static_range(2):
                at_r = begin_r + side * rows + gl.arange(0, rows, gl.SliceLayout(0, layout))
                y = results(
                    first if side == 0 else second, at_r, at_l, R, L, sl, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr,
                    r_sum_ptr, bias_ptr, SL, SR, L_ZERO, R_ZERO, BIAS, PACKED, EVEN, y_desc.dtype,
                )  # fmt: skip
                write(y, y_buf, y_desc, begin_l, begin_r + side * rows, TURNED)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["L", "R", "whole", "splits"])
def multiply_wide(
    l_desc, r_desc, y_desc, parts_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr,
    R, L, K, whole, splits, SPLIT: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr,
    BR: gl.constexpr, TURNED: gl.constexpr, SL: gl.constexpr, SR: gl.constexpr, L_ZERO: gl.constexpr,
    R_ZERO: gl.constexpr, BIAS: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr, BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr, GROUP: gl.constexpr, EVEN: gl.constexpr, EARLY: gl.constexpr, OVERLAP: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    l_bufs = gl.allocate_shared_memory(l_desc.dtype, [2 * STAGES] + l_desc.block_shape, l_desc.layout)
    r_bufs = gl.allocate_shared_memory(r_desc.dtype, [2 * STAGES] + r_desc.block_shape, r_desc.layout)
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
