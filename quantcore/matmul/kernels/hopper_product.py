"""The kernel of `hopper_codes`: codes times codes, tile after tile.

A program's groups of warps take one piece of work after the other (`hopper_parts`): 64 rows each of the 128 of L of a
tile, times its rows of R, in wide tiles (`hopper_wide`, `hopper_apart`) or narrow ones (`hopper_narrow`). Two warps
bring the operands (`hopper_bring`).
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from quantcore.matmul.kernels.hopper_apart import sums_apart
from quantcore.matmul.kernels.hopper_bring import bring
from quantcore.matmul.kernels.hopper_narrow import sums_narrow
from quantcore.matmul.kernels.hopper_parts import keep_part, piece_of, sum_of_parts
from quantcore.matmul.kernels.hopper_results import left_scales, results, write
from quantcore.matmul.kernels.hopper_wide import sums_kept
from quantcore.matmul.kernels.tile_order import place
from quantcore.numbers.kernels.overlap import after_last, let_next
from quantcore.numbers.kernels.turns import is_last

STAGES_BYTES = 192 * 1024  # of a program; beside them lies a tile of results, 32 KB at most


def stages(block_l: int, block_r: int, block_k: int, packed: bool, grouped: bool) -> int:
    """As many as shared memory holds; half as many, in narrow tiles, of a packed weight that has groups, or is
    multiplied by few tokens. No other program fits beside one of these in any case: it has all registers."""
    stage = (block_l // 2 if packed else block_l) * block_k + block_r * block_k
    fewer = packed and block_r <= block_l and (grouped or 2 * block_r <= block_l)
    return STAGES_BYTES // (2 * stage if fewer else stage)


@gluon.jit
def sum_up(
    tensors, SIDE: gl.constexpr, SPLIT: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr,
    BR: gl.constexpr, TURNED: gl.constexpr, SL: gl.constexpr, SR: gl.constexpr, L_ZERO: gl.constexpr,
    R_ZERO: gl.constexpr, BIAS: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr, BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr, GROUP: gl.constexpr, EVEN: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    l_bufs, r_bufs, s_bufs, y_bufs, full, empty, y_desc, parts_ptr, turns_ptr, bl_ptr, br_ptr = tensors[:11]
    sl_ptr, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, R, L, K, whole, splits = tensors[11:]
    boxes: gl.constexpr = r_bufs.shape[0] // STAGES
    wide: gl.constexpr = boxes > 1
    half: gl.constexpr = BLOCK_L // 2
    rows: gl.constexpr = BLOCK_R // boxes
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, rows, 32])
    tiles_r, tiles_l, blocks = gl.cdiv(R, BLOCK_R), gl.cdiv(L, BLOCK_L), gl.cdiv(K, BLOCK_K)
    y_buf = y_bufs.index(SIDE)
    after_last(OVERLAP)
    step = 0
    kept: gl.constexpr = wide and IS_INT and not (BL or BR)
    if kept:
        first = gl.zeros([half, rows], gl.int32, layout)
        second = gl.zeros([half, rows], gl.int32, layout)
    pieces = whole + (tiles_r * tiles_l - whole) * splits
    for piece in range(gl.program_id(0), pieces, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        pid_r, pid_l = place(tile, tiles_r, tiles_l, GROUP)
        begin_l, begin_r = pid_l * BLOCK_L + SIDE * half, pid_r * BLOCK_R
        at_l = begin_l + gl.arange(0, half, gl.SliceLayout(1, layout))
        if kept:
            first, second, step = sums_kept(
                first, second, l_bufs, r_bufs, full, empty, step, begin, end, SIDE, PACKED, STAGES, layout
            )  # fmt: skip
        elif wide:
            first, second, step = sums_apart(
                l_bufs, r_bufs, s_bufs, full, empty, bl_ptr, br_ptr, begin_l, begin_r, R, L, step, begin, end, blocks,
                SIDE, IS_INT, PACKED, BL, BR, STAGES, layout,
            )  # fmt: skip
        else:
            sl = left_scales(sl_ptr, at_l, L, SL)  # early: there are registers for them
            first, step = sums_narrow(
                l_bufs, r_bufs, s_bufs, full, empty, bl_ptr, br_ptr, at_l, begin_r, R, L, step, begin, end, blocks,
                SIDE, IS_INT, PACKED, BL, BR, STAGES, layout,
            )  # fmt: skip
            second = first
        finishes = piece < whole
        if SPLIT and piece >= whole:
            own, of_tile = 2 * (piece - whole) + SIDE, 2 * (tile - whole) * splits + SIDE
            keep_part(parts_ptr, first, boxes * own)
            if wide:
                keep_part(parts_ptr, second, boxes * own + 1)
            finishes = is_last(turns_ptr + 2 * (tile - whole) + SIDE, splits)
            if finishes:
                first = sum_of_parts(parts_ptr, first, boxes * of_tile, splits, 2 * boxes)
                if wide:
                    second = sum_of_parts(parts_ptr, second, boxes * of_tile + 1, splits, 2 * boxes)
        if SPLIT and SIDE == 0:  # not before: nearly all multiprocessors are taken, and short programs would crowd
            if piece + gl.num_programs(0) >= pieces:
                let_next(OVERLAP)
        if not SPLIT or finishes:
            if wide:
                sl = left_scales(sl_ptr, at_l, L, SL)
            for box in gl.static_range(boxes):
                at_r = begin_r + box * rows + gl.arange(0, rows, gl.SliceLayout(0, layout))
                y = results(
                    first if box == 0 else second, at_r, at_l, R, L, sl, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr,
                    r_sum_ptr, bias_ptr, SL, SR, L_ZERO, R_ZERO, BIAS, PACKED, EVEN, y_desc.dtype,
                )  # fmt: skip
                write(y, y_buf, y_desc, begin_l, begin_r + box * rows, TURNED)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["L", "R", "whole", "splits"])
def multiply_tiles(
    l_desc, r_desc, y_desc, parts_ptr, turns_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr,
    bias_ptr, R, L, K, whole, splits, SPLIT: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr,
    BR: gl.constexpr, TURNED: gl.constexpr, SL: gl.constexpr, SR: gl.constexpr, L_ZERO: gl.constexpr,
    R_ZERO: gl.constexpr, BIAS: gl.constexpr, BLOCK_R: gl.constexpr, BLOCK_L: gl.constexpr, BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr, GROUP: gl.constexpr, EVEN: gl.constexpr, EARLY: gl.constexpr, OVERLAP: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """EARLY: nobody writes the weight while products run; it is L where y is TURNED, else R. A packed weight's bl is
    described, too."""
    l_bufs = gl.allocate_shared_memory(l_desc.dtype, [2 * STAGES] + l_desc.block_shape, l_desc.layout)
    r_bufs = gl.allocate_shared_memory(
        r_desc.dtype, [BLOCK_R // r_desc.block_shape[0] * STAGES] + r_desc.block_shape, r_desc.layout
    )
    s_bufs = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_L], bl_ptr.layout) if PACKED and BL else l_bufs
    y_bufs = gl.allocate_shared_memory(y_desc.dtype, [2] + y_desc.block_shape, y_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=2)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    tensors = (
        l_bufs, r_bufs, s_bufs, y_bufs, full, empty, y_desc, parts_ptr, turns_ptr, bl_ptr, br_ptr, sl_ptr, sr_ptr,
        zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, R, L, K, whole, splits,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (sum_up, (
                tensors, gl.constexpr(0), SPLIT, IS_INT, PACKED, BL, BR, TURNED, SL, SR, L_ZERO, R_ZERO, BIAS,
                BLOCK_R, BLOCK_L, BLOCK_K, STAGES, GROUP, EVEN, OVERLAP,
            )),
            (sum_up, (
                tensors, gl.constexpr(1), SPLIT, IS_INT, PACKED, BL, BR, TURNED, SL, SR, L_ZERO, R_ZERO, BIAS,
                BLOCK_R, BLOCK_L, BLOCK_K, STAGES, GROUP, EVEN, OVERLAP,
            )),
            (bring, (
                l_desc, l_bufs, bl_ptr, s_bufs, full, empty, R, L, K, whole, splits, gl.constexpr(True), PACKED,
                BL if PACKED else 0, EARLY and TURNED, BLOCK_R, BLOCK_L, BLOCK_K, SPLIT, STAGES, GROUP, OVERLAP,
            )),
            (bring, (
                r_desc, r_bufs, r_desc, r_bufs, full, empty, R, L, K, whole, splits, gl.constexpr(False),
                gl.constexpr(0), gl.constexpr(0), EARLY and not TURNED, BLOCK_R, BLOCK_L, BLOCK_K, SPLIT, STAGES, GROUP,
                OVERLAP,
            )),
        ],
        [4, 1, 1],  # warps of the second group, and those that bring
        [240, 24, 24],  # registers a thread of theirs; the first group has what is left
    )  # fmt: skip
