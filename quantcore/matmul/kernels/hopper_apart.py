"""The sums of a wide tile of `hopper_product` where those of a block of 128 columns leave the tensor cores.

A group of warps multiplies its 64 of L by a quarter of R at a time, 64 rows, and while it adds one quarter's sums,
times their scales, in float32, the tensor cores have its next quarter. A thread's registers hold 128 sums and those of
two quarters.

ptxas lets no product run on over the end of a loop's step. So that little is left to do there, packed codes of the next
block are read, and mostly unpacked, while the last quarter is multiplied.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from quantcore.matmul.kernels.hopper_bring import words_of_block
from quantcore.matmul.kernels.hopper_results import asked_for, left_block_scale, right_block_scale, scaled
from quantcore.matmul.kernels.hopper_unpack import operand_of, planes_of


@gluon.jit
def _product(left, r_bufs, stage, held, QUARTER: gl.constexpr):
    """Of a quarter of R, in the registers that are `held`: in others, ptxas would need more than there are."""
    rows: gl.constexpr = r_bufs.shape[1] // 2
    right = r_bufs.index(2 * stage + QUARTER // 2).slice(QUARTER % 2 * rows, rows).permute([1, 0])
    return warpgroup_mma(left, right, held, use_acc=False, is_async=True)


@gluon.jit
def _added(sums, doing, bl, br, BL: gl.constexpr, BR: gl.constexpr, PACKED: gl.constexpr):
    """A product's sums, which one more product is behind, to `sums`; and the registers they leave. The second wait has
    nothing to wait for: it is there so that the compiler adds before it, and not behind the next product."""
    part = warpgroup_mma_wait(1, deps=(doing,))
    return warpgroup_mma_wait(1, deps=(sums + scaled(part, bl, br, BL, BR, PACKED), part))


@gluon.jit
def _half_of(first, second, layout: gl.constexpr):
    """Two quarters as one, their registers as they are."""
    both = gl.join(first, second).permute([0, 2, 1]).reshape([first.shape[0], 2 * first.shape[1]])
    return gl.convert_layout(both, layout, assert_trivial=True)


@gluon.jit
def sums_apart(
    l_bufs, r_bufs, s_bufs, full, empty, bl_ptr, br_ptr, begin_l, begin_r, R, L, step, begin, end, blocks,
    SIDE: gl.constexpr, IS_INT: gl.constexpr, PACKED: gl.constexpr, BL: gl.constexpr, BR: gl.constexpr,
    STAGES: gl.constexpr, layout_of_half: gl.constexpr,
):  # fmt: skip
    """Those of 64 of L, from begin_l on, and of each half of R, over blocks begin to end, and the step behind them."""
    kind: gl.constexpr = gl.int32 if IS_INT else gl.float32
    rows: gl.constexpr = r_bufs.shape[1] // 2
    shape: gl.constexpr = [l_bufs.shape[1], rows]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, rows, 32])
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    row = gl.minimum(begin_l + gl.arange(0, shape[0], gl.SliceLayout(1, layout)), L - 1)
    row_1, row_2 = gl.minimum(begin_r, R - 1), gl.minimum(begin_r + 2 * rows, R - 1)
    if PACKED:
        words, bl = words_of_block(l_bufs, s_bufs, full, step, True, SIDE, BL != 0, STAGES, layout)
        sizes, signs = planes_of(words, IS_INT)
    else:
        bl = left_block_scale(bl_ptr, row, begin, blocks, BL)
    br_1, br_2 = (
        right_block_scale(br_ptr, row_1, begin, blocks, BR),
        right_block_scale(br_ptr, row_2, begin, blocks, BR),
    )
    sums_0, sums_1 = gl.zeros(shape, gl.float32, layout), gl.zeros(shape, gl.float32, layout)
    sums_2, sums_3 = gl.zeros(shape, gl.float32, layout), gl.zeros(shape, gl.float32, layout)
    for block in range(begin, end):
        stage, then = step % STAGES, gl.minimum(block + 1, blocks - 1)
        if PACKED:
            left = operand_of(sizes, signs, operand, IS_INT)
        else:
            mbarrier.wait(full.index(stage), (step // STAGES) & 1)
            left = l_bufs.index(2 * stage + SIDE).load(operand)
        step += 1
        none = gl.zeros(shape, kind, layout)
        one = _product(left, r_bufs, stage, none, 0)
        two = _product(left, r_bufs, stage, none, 1)
        br_1_then = right_block_scale(br_ptr, row_1, then, blocks, BR)
        br_2_then = right_block_scale(br_ptr, row_2, then, blocks, BR)
        if not PACKED:
            bl_then = asked_for(left_block_scale(bl_ptr, row, then, blocks, BL)) if BL else 1.0
        sums_0, one = _added(sums_0, one, bl, br_1, BL, BR, PACKED)
        one = _product(left, r_bufs, stage, one, 2)
        sums_1, two = _added(sums_1, two, bl, br_1, BL, BR, PACKED)
        two = _product(left, r_bufs, stage, two, 3)
        sums_2, one = _added(sums_2, one, bl, br_2, BL, BR, PACKED)
        if PACKED:
            words, bl_then = words_of_block(
                l_bufs, s_bufs, full, step, block + 1 < end, SIDE, BL != 0, STAGES, layout
            )  # fmt: skip
            sizes, signs = planes_of(words, IS_INT)
        part = warpgroup_mma_wait(0, deps=(two,))
        mbarrier.arrive(empty.index(stage), count=1)
        sums_3 += scaled(part, bl, br_2, BL, BR, PACKED)
        bl, br_1, br_2 = bl_then, br_1_then, br_2_then
    return _half_of(sums_0, sums_1, layout_of_half), _half_of(sums_2, sums_3, layout_of_half), step
