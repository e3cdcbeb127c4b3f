"""The sequential part of GPTQ on a GPU: one block of columns, swept by every row of the weight on its own.

A program takes ROWS rows, one a thread. SUB columns at a time it adds what the earlier columns of the block ask of
them, a small product, and then goes through the SUB columns one by one in registers: round, take the error, move the
next. With few rows the time is that of one warp's instructions, one after another, so there are few of them: products
are of bf16 halves on the tensor cores, which the products between blocks need anyway (see `sweep.SplitProducts`);
`_steps` divides by a product and its correction, the reciprocals being known before; and columns lie in registers as
vectors, so that whole tiles are loaded and stored. What is read and written is `sweep.SweepState`'s, here for the
columns of one block:

    w                       (columns, C) float32, one row of memory a column; row r of the sweep reads column source[r]
    asks, values            (columns, rows); values float32 or int8
    adjusted                (columns, rows) where KEEP
    error                   (columns, rows) where KEEP or where there are no halves
    scale, zero             of the column at step k: [first[r] + group[part[r], k] * stride[r]]
    pull                    (columns, columns), row j: what column j takes from the errors before it
    pull_halves             (columns, 3 size), row j: pull's high halves, the same again, the low halves
    halves                  (3, columns, rows) bf16: the error's high half, low half, high half
    lo, hi                  (rows,) the range of each row's codes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.formats import Format
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.stack import sixteen, stacked

if TYPE_CHECKING:
    from quantcore.methods.sweep_state import SweepState

MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to whole numbers, half to even
FAR = tl.constexpr(1e9)  # beyond every code
LARGEST = tl.constexpr(3.0e38)
SUB = 16  # columns that are swept in registers


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
def _tile(w_ptr, asks_ptr, k, source, r, wanted, rows, w_stride, has_asks):
    """Columns k of w, (ROWS, SUB), and the same with what the blocks before ask of them."""
    w = tl.load(w_ptr + k[None, :] * w_stride + source[:, None], mask=wanted, other=0.0)
    asks = tl.load(asks_ptr + k[None, :] * rows + r[:, None], mask=wanted & (has_asks > 0), other=0.0)
    return w, w + asks


@triton.jit(do_not_specialize=["has_asks"])
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
    pull_halves_ptr,
    error_ptr,
    values_ptr,
    halves_ptr,
    has_asks,
    rows,
    columns,
    size,
    w_stride,
    group_stride,
    pull_stride,
    pull_half_stride,
    half_stride,
    ZERO: tl.constexpr,
    KEEP: tl.constexpr,
    HALVES: tl.constexpr,
    ALIKE: tl.constexpr,  # the SUB columns share a scale
    PLAIN: tl.constexpr,
    EVEN: tl.constexpr,  # columns fill whole SUBs and rows whole programs
    MANTISSA: tl.constexpr,
    MIN_EXPONENT: tl.constexpr,
    SUB: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = (r < rows) | EVEN
    lo = tl.load(lo_ptr + r, mask=mine, other=0.0)
    hi = tl.load(hi_ptr + r, mask=mine, other=0.0)
    source = tl.load(source_ptr + r, mask=mine, other=0)
    first = tl.load(first_ptr + r, mask=mine, other=0)
    stride = tl.load(stride_ptr + r, mask=mine, other=0)
    group_at = group_ptr + tl.load(part_ptr + r, mask=mine, other=0) * group_stride
    step = tl.arange(0, SUB)
    piece = tl.arange(0, CHUNK)
    for start in range(0, columns, SUB):
        k = start + step
        known = (k < columns) | EVEN
        w, tile = _tile(w_ptr, asks_ptr, k, source, r, known[None, :] & mine[:, None], rows, w_stride, has_asks)
        scales = ()
        inverses = ()
        zeros = ()
        for i in tl.static_range(SUB):
            if i == 0 or not ALIKE:
                live = mine & ((start + i < columns) | EVEN)
                place = first + tl.load(group_at + start + i, mask=live, other=0) * stride
                scale = tl.load(scale_ptr + place, mask=live, other=1.0)
                inverse = tl.minimum(tl.div_rn(1.0, scale), LARGEST)
                if ZERO:
                    zero = tl.load(zero_ptr + place, mask=live, other=0.0)
            scales = scales + (scale,)
            inverses = inverses + (inverse,)
            if ZERO:
                zeros = zeros + (zero,)
        asks = tl.zeros([SUB, ROWS], tl.float32)
        for before in range(0, start, CHUNK):
            early = before + piece
            used = known[:, None] & (early < start)[None, :]
            made = (early < start)[:, None] & mine[None, :]
            at = early[:, None] * rows + r[None, :]
            if HALVES:
                pull_at = pull_halves_ptr + k[:, None].to(tl.int64) * pull_half_stride + early[None, :]
                pull_high = tl.load(pull_at, mask=used, other=0.0)
                pull_low = tl.load(pull_at + 2 * size, mask=used, other=0.0)
                high = tl.load(halves_ptr + at, mask=made, other=0.0)
                low = tl.load(halves_ptr + half_stride + at, mask=made, other=0.0)
                if PLAIN:  # the interpreter's product takes bf16 for whole numbers
                    pull_high, pull_low = pull_high.to(tl.float32), pull_low.to(tl.float32)
                    high, low = high.to(tl.float32), low.to(tl.float32)
                asks = tl.dot(pull_high, high, tl.dot(pull_high, low, tl.dot(pull_low, high, asks)))
            else:
                pull = tl.load(pull_ptr + k[:, None] * pull_stride + early[None, :], mask=used, other=0.0)
                error = tl.load(error_ptr + at, mask=made, other=0.0)
                asks = tl.dot(pull, error, asks, input_precision="ieee")
        moved = sixteen(tile + tl.trans(asks))
        weights = sixteen(w)
        arrived = ()
        errors = ()
        values = ()
        for i in tl.static_range(SUB):
            x = moved[i]
            row_at = pull_ptr + (start + i) * pull_stride + start
            for before in tl.static_range(i):
                x += tl.load(row_at + before, mask=(start + i < columns) | EVEN, other=0.0) * errors[before]
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
        at = k[:, None] * rows + r[None, :]
        live = known[:, None] & mine[None, :]
        error = tl.trans(stacked(errors))
        tl.store(values_ptr + at, tl.trans(stacked(values)).to(values_ptr.dtype.element_ty), mask=live)
        if KEEP:
            tl.store(adjusted_ptr + at, tl.trans(stacked(arrived)), mask=live)
        if KEEP or not HALVES:
            tl.store(error_ptr + at, error, mask=live)
        if HALVES:
            high = error.to(tl.bfloat16)
            tl.store(halves_ptr + at, high, mask=live)
            tl.store(halves_ptr + half_stride + at, (error - high.to(tl.float32)).to(tl.bfloat16), mask=live)
            tl.store(halves_ptr + 2 * half_stride + at, high, mask=live)
        tl.debug_barrier()  # the errors are read back by other threads of this program


def sweep_block(
    state: SweepState,
    fmt: Format,
    pull: Tensor,
    start: int,
    stop: int,
    asks: Tensor | None = None,
    halves: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Sweep columns start..stop: fills their rows of `state.values`, of `state.error` where there are no halves, and of
    both `state.error` and `state.adjusted` where these have a row for each column.

    `state` all contiguous, float32 where it is real; `fmt` says how values are rounded (integers alike).
    asks      (stop - start, rows), what the columns before `start` ask of these; None where there are none
    halves    of pull, (stop - start, 3 size) or wider: high, high, low; and of the errors, (3, size, rows), to fill:
              high, low, high. None: products inside the block are in float32"""
    rows, width = state.values.shape[1], len(state.w)
    if 3 * (stop - start) * max(rows, state.w.shape[1]) >= 2**31:
        raise ValueError(
            f"{rows} rows in blocks of {stop - start} columns are more than 32 bits count; sweep them apart"
        )
    here = slice(start, stop)
    tile = tile_for(rows, halves is not None)
    keep = len(state.adjusted) == width
    pull_halves, error_halves = halves or (None, None)
    launch(
        _sweep,
        (triton.cdiv(rows, tile.rows),),
        state.w[here],
        state.source,
        state.w if asks is None else asks,
        state.adjusted[here] if keep else None,
        state.scale,
        state.zero_point,
        state.first,
        state.stride,
        state.group[:, start:],
        state.part,
        state.lo,
        state.hi,
        pull[here, start:],
        pull_halves,
        state.error[here] if len(state.error) == width else None,
        state.values[here],
        error_halves,
        int(asks is not None),
        rows,
        stop - start,
        0 if error_halves is None else error_halves.shape[1],
        state.w.stride(0),
        state.group.stride(0),
        pull.stride(0),
        0 if pull_halves is None else pull_halves.stride(0),
        0 if error_halves is None else error_halves.stride(0),
        ZERO=state.zero_point is not None,
        KEEP=keep,
        HALVES=halves is not None,
        ALIKE=start % SUB == 0 and state.run % SUB == 0,
        PLAIN=not pull.is_cuda,
        EVEN=(stop - start) % SUB == 0 and rows % tile.rows == 0,
        MANTISSA=-1 if fmt.mantissa_bits is None else fmt.mantissa_bits,
        MIN_EXPONENT=fmt.min_exponent if fmt.is_float else 0,
        SUB=SUB,
        ROWS=tile.rows,
        CHUNK=tile.chunk,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def tile_for(rows: int, halves: bool) -> Tile:
    """The tile that was quickest on an H100 for so many rows; for products in float32 one that fits the registers."""
    if not halves:
        return Tile(32, 64, 4, 1)
    return Tile(32, 64, 1, 3) if rows <= 8192 else Tile(64, 128, 2, 1)
