"""The sequential part of GPTQ on a GPU: one block of columns, swept by every row of the weight on its own.

A program takes ROWS rows, one a thread. SUB columns at a time it adds what the earlier columns of the block ask of
them, a small product on the tensor cores (PRECISION tf32x3: three products of tf32 numbers, float32's accuracy but for
two bits), and then goes through the SUB columns one by one in registers: round, take the error, move the next. With few
rows the time is the length of that chain of dependent steps, so nothing is in it that can stand beside it: `_steps`
divides by a product and a correction, the reciprocals being known before. What a program reads and writes is
`sweep.SweepState`'s, here for the columns of one block:

    w                       (columns, C) float32, one row of memory a column; row r of the sweep reads column source[r]
    asks, error, values     (columns, rows); values float32 or int8
    adjusted                (columns, rows) where KEEP, else (SUB, rows): a place to pass the product's tile through
    scale, zero             of the column at step k: [first[r] + group[part[r], k] * stride[r]]
    halves                  (3, columns, rows) bf16: the error's high half, low half, high half
    pull                    (columns, columns), row j: what column j takes from the errors before it
    lo, hi                  (rows,) the range of each row's codes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from quantcore.formats import Format
from quantcore.sweep import SCRATCH

if TYPE_CHECKING:
    from quantcore.sweep import SweepState

MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to whole numbers, half to even
FAR = tl.constexpr(1e9)  # beyond every code
LARGEST = tl.constexpr(3.0e38)
SUB = SCRATCH
PRECISION = "tf32x3"


class Tile(NamedTuple):
    """ROWS rows of the sweep a program, CHUNK earlier columns at a time, `stages` of them under way."""

    rows: int
    chunk: int
    warps: int
    stages: int


@triton.jit
def _on_grid(x, MANTISSA: tl.constexpr, MIN_EXPONENT: tl.constexpr):
    """The nearest value of the format's grid, half to even; MANTISSA < 0: whole numbers."""
    if MANTISSA < 0:
        return (x + MAGIC) - MAGIC
    exponent = ((x.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    exponent = tl.maximum(exponent, MIN_EXPONENT) - MANTISSA
    step = ((exponent + 127) << 23).to(tl.float32, bitcast=True)
    inverse = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    return ((x * inverse + MAGIC) - MAGIC) * step


@triton.jit
def _steps(x, scale, inverse):
    """x / scale, rounded to the nearest: a product, corrected by what is left of x. inverse: 1 / scale, rounded.

    Source: Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor", theorem 8."""
    about = tl.minimum(tl.maximum(x * inverse, -FAR), FAR)
    return tl.fma(tl.fma(-about, scale, x), inverse, about)


@triton.jit
def _tile(w_ptr, asks_ptr, k, source, r, mine, rows, columns, w_stride, ASKS: tl.constexpr):
    """Columns k of w, and what the blocks before ask of them: (SUB, ROWS)."""
    inside = (k < columns)[:, None] & mine[None, :]
    tile = tl.load(w_ptr + k[:, None] * w_stride + source[None, :], mask=inside, other=0.0)
    if ASKS:
        tile += tl.load(asks_ptr + k[:, None] * rows + r[None, :], mask=inside, other=0.0)
    return tile


@triton.jit
def _sweep(
    w_ptr,
    source_ptr,
    asks_ptr,
    adjusted_ptr,
    scale_ptr,
    zero_ptr,
    first_ptr,
    stride_ptr,
    group_ptr,
    part_ptr,
    lo_ptr,
    hi_ptr,
    pull_ptr,
    error_ptr,
    values_ptr,
    halves_ptr,
    rows,
    columns,
    w_stride,
    group_stride,
    pull_stride,
    half_stride,
    ASKS: tl.constexpr,
    ZERO: tl.constexpr,
    KEEP: tl.constexpr,
    HALVES: tl.constexpr,
    ALIKE: tl.constexpr,  # the SUB columns share a scale
    MANTISSA: tl.constexpr,
    MIN_EXPONENT: tl.constexpr,
    SUB: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = r < rows
    lo = tl.load(lo_ptr + r, mask=mine, other=0.0)
    hi = tl.load(hi_ptr + r, mask=mine, other=0.0)
    source = tl.load(source_ptr + r, mask=mine, other=0)
    first = tl.load(first_ptr + r, mask=mine, other=0)
    stride = tl.load(stride_ptr + r, mask=mine, other=0)
    group_at = group_ptr + tl.load(part_ptr + r, mask=mine, other=0) * group_stride
    step = tl.arange(0, SUB)
    piece = tl.arange(0, CHUNK)
    # The next tile is loaded a turn ahead, and all else that does not wait for the products before them.
    ahead = _tile(w_ptr, asks_ptr, step, source, r, mine, rows, columns, w_stride, ASKS)
    for start in range(0, columns, SUB):
        k = start + step
        known = (k < columns)[:, None]
        tile = ahead
        ahead = _tile(w_ptr, asks_ptr, k + SUB, source, r, mine, rows, columns, w_stride, ASKS)
        weights = ()
        scales = ()
        inverses = ()
        zeros = ()
        for i in tl.static_range(SUB):
            live = mine & (start + i < columns)
            weights = weights + (tl.load(w_ptr + (start + i) * w_stride + source, mask=live, other=0.0),)
            if i == 0 or not ALIKE:
                place = first + tl.load(group_at + start + i, mask=live, other=0) * stride
                scale = tl.load(scale_ptr + place, mask=live, other=1.0)
                inverse = tl.minimum(tl.div_rn(1.0, scale), LARGEST)
                if ZERO:
                    zero = tl.load(zero_ptr + place, mask=live, other=0.0)
            scales = scales + (scale,)
            inverses = inverses + (inverse,)
            if ZERO:
                zeros = zeros + (zero,)
        # The last piece reaches over the SUB columns themselves, whose errors count as 0 yet: their part of pull comes
        # into the cache in one go, for the scalar loads below.
        for before in range(0, start + SUB, CHUNK):
            early = before + piece
            at = k[:, None] * pull_stride + early[None, :]
            asks = tl.load(pull_ptr + at, mask=known & (early < columns)[None, :], other=0.0)
            at = early[:, None] * rows + r[None, :]
            made = tl.load(error_ptr + at, mask=(early < start)[:, None] & mine[None, :], other=0.0)
            tile += tl.dot(asks, made, input_precision=PRECISION)
        passed = start if KEEP else 0
        tl.store(adjusted_ptr + (passed + step)[:, None] * rows + r[None, :], tile, mask=known & mine[None, :])
        tl.debug_barrier()  # the tile's rows are read back by other threads of this program
        moved = ()
        for i in tl.static_range(SUB):
            live = mine & (start + i < columns)
            moved = moved + (tl.load(adjusted_ptr + (passed + i) * rows + r, mask=live, other=0.0),)
        arrived = ()
        errors = ()
        values = ()
        for i in tl.static_range(SUB):
            x = moved[i]
            for before in tl.static_range(i):
                at = (start + i) * pull_stride + start + before
                ask = tl.load(pull_ptr + at, mask=start + i < columns, other=0.0)
                x += ask * errors[before]
            steps = _steps(x, scales[i], inverses[i])
            if ZERO:
                reached = _on_grid(tl.minimum(tl.maximum(steps, lo - zeros[i]), hi - zeros[i]), MANTISSA, MIN_EXPONENT)
                value = reached + zeros[i]
            else:
                reached = _on_grid(tl.minimum(tl.maximum(steps, lo), hi), MANTISSA, MIN_EXPONENT)
                value = reached
            arrived = arrived + (x,)
            errors = errors + (weights[i] - scales[i] * reached,)
            values = values + (value,)
        # Stored at the end: a store between them would hold back every load that might be of the same place.
        for i in tl.static_range(SUB):
            at = (start + i) * rows + r
            live = mine & (start + i < columns)
            if KEEP:
                tl.store(adjusted_ptr + at, arrived[i], mask=live)
            tl.store(error_ptr + at, errors[i], mask=live)
            tl.store(values_ptr + at, values[i].to(values_ptr.dtype.element_ty), mask=live)
            if HALVES:
                high = errors[i].to(tl.bfloat16)
                low = (errors[i] - high.to(tl.float32)).to(tl.bfloat16)
                tl.store(halves_ptr + at, high, mask=live)
                tl.store(halves_ptr + half_stride + at, low, mask=live)
                tl.store(halves_ptr + 2 * half_stride + at, high, mask=live)
        tl.debug_barrier()  # the errors are read back by other threads of this program


def sweep_block(
    state: SweepState,
    fmt: Format,
    pull: Tensor,
    start: int,
    stop: int,
    asks: Tensor | None = None,
    halves: Tensor | None = None,
) -> None:
    """Sweep columns start..stop: fills their rows of `state.error` and `state.values`, and of `state.adjusted` where it
    has a row for each column.

    `state` all contiguous, float32 where it is real; `fmt` says how values are rounded (integers alike).
    asks      (stop - start, rows), what the columns before `start` ask of these; None where there are none
    halves    takes the errors once more, for `_SplitProducts`"""
    rows, width = state.values.shape[1], len(state.w)
    if 3 * (stop - start) * max(rows, state.w.shape[1]) >= 2**31:
        raise ValueError(
            f"{rows} rows in blocks of {stop - start} columns are more than 32 bits count; sweep them apart"
        )
    here = slice(start, stop)
    tile = tile_for(rows)
    alike = start % SUB == 0 and state.run % SUB == 0
    keep = len(state.adjusted) == width
    _sweep[(triton.cdiv(rows, tile.rows),)](
        state.w[here],
        state.source,
        asks,
        state.adjusted[here] if keep else state.adjusted,
        state.scale,
        state.zero_point,
        state.first,
        state.stride,
        state.group[:, start:],
        state.part,
        state.lo,
        state.hi,
        pull[here, start:],
        state.error[here] if len(state.error) == width else state.error,
        state.values[here],
        halves,
        rows,
        stop - start,
        state.w.stride(0),
        state.group.stride(0),
        pull.stride(0),
        0 if halves is None else halves.stride(0),
        ASKS=asks is not None,
        ZERO=state.zero_point is not None,
        KEEP=keep,
        HALVES=halves is not None,
        ALIKE=alike,
        MANTISSA=-1 if fmt.mantissa_bits is None else fmt.mantissa_bits,
        MIN_EXPONENT=fmt.min_exponent if fmt.is_float else 0,
        SUB=SUB,
        ROWS=tile.rows,
        CHUNK=tile.chunk,
        PRECISION=PRECISION,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def tile_for(rows: int) -> Tile:
    """The tile that was quickest on an H100 for so many rows."""
    return Tile(32, 64, 2, 3) if rows <= 8192 else Tile(64, 64, 2, 3)
