"""The sums of a wide tile of `hopper_product`, 128 of L x 256 of R, where they stay in the tensor cores' registers.

Hopper's instruction of 256 rows is not within Triton's reach for int8, and one of 128 reads its left operand from
shared memory twice as often as that allows at full speed. So each group of warps loads its 64 of L into registers once
and multiplies them by both halves of R: what is read in a cycle is then what an instruction of 256 rows would read.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from quantcore.matmul.kernels.hopper_unpack import HELD, unpacked_codes


@gluon.jit
def sums_kept(
    first, second, l_bufs, r_bufs, full, empty, step, begin, end, SIDE: gl.constexpr, PACKED: gl.constexpr,
    STAGES: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """Of integers: those of 64 of L and of each half of R, over blocks begin to end, and the step behind them; in the
    registers of `first` and `second`, whatever is in them."""
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    for block in range(begin, end):
        stage = step % STAGES
        mbarrier.wait(full.index(stage), (step // STAGES) & 1)
        if PACKED:
            left = unpacked_codes(l_bufs.index(2 * stage + SIDE).load(HELD), operand, True)
        else:
            left = l_bufs.index(2 * stage + SIDE).load(operand)
        one, two = r_bufs.index(2 * stage).permute([1, 0]), r_bufs.index(2 * stage + 1).permute([1, 0])
        doing = warpgroup_mma(left, one, first, use_acc=block > begin, is_async=True)
        doing_too = warpgroup_mma(left, two, second, use_acc=block > begin, is_async=True)
        first, second = warpgroup_mma_wait(0, deps=(doing, doing_too))
        mbarrier.arrive(empty.index(stage), count=1)
        step += 1
    return first, second, step
