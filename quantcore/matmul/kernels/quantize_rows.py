"""Tokens to codes in one pass: read a token once, find its range, write its codes and its scale.

    symmetric   s = absmax / half_range                 q = round(clamp(x / s))
    asymmetric  s = (hi - lo) / (qmax - qmin)           z = clamp(round(qmin - lo / s))      q = round(x / s) + z

The codes are those of `qtensor.quantize`, bit for bit: true division, half to even, clamped before rounding. A range of
the whole tensor needs all of it before the first code, so a first kernel leaves PARTS partial ranges, which every
program of the second one joins. Rows are padded with zero codes, so that a matmul needs no mask along K.

NaN and Inf are not refused as on the CPU (that would wait for the GPU); the scale of a token that holds one is NaN, and
so its outputs are.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.codes import TokenCodes, a_token
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerGroup, PerToken
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next_early, overlapping
from quantcore.numbers.spec import QuantSpec

LONGEST_BLOCK = 16384
PARTS = 512
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, half to even
MAGIC_BITS = tl.constexpr(0x4B400000)


@triton.jit
def absolute_bits(x):
    """|x| as an integer that grows with it; NaN is the largest of all."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _ends(x, SYMMETRIC: tl.constexpr):
    """Bits of x whose maxima are the ends of its range: as integers, where positive numbers come last, and as unsigned
    ones, where negative ones do. NaN comes after all others of its sign."""
    return absolute_bits(x) if SYMMETRIC else x.to(tl.int32, bitcast=True), x.to(tl.uint32, bitcast=True)


@triton.jit
def _range_of(high, low):
    """The range that holds 0 and all numbers of these `_ends`."""
    high, low = tl.maximum(tl.max(high, 0), 0), tl.max(low, 0)
    return tl.where(low < 0x80000000, 0, low).to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)


@triton.jit
def qparams_of(lo, hi, half_range, qmin, qmax, SYMMETRIC: tl.constexpr):
    """Scale and zero point of a range that holds 0; symmetric ranges give hi alone."""
    if SYMMETRIC:
        scale = tl.div_rn(hi, half_range + tl.zeros_like(hi))
        zero = tl.zeros_like(hi)
        scale = tl.where(scale == 0, 1.0, scale)
    else:
        levels = qmax - qmin + tl.zeros_like(hi)
        width = hi - lo
        scale = tl.where(width < float("inf"), tl.div_rn(width, levels), tl.div_rn(hi, levels) - tl.div_rn(lo, levels))
        scale = tl.where(scale == 0, 1.0, scale)
        zero = tl.minimum(tl.maximum(_round(qmin - tl.div_rn(lo, scale)), qmin), qmax)
    return tl.where(scale < float("inf"), scale, float("nan")), zero


@triton.jit
def _round(x):
    """To the nearest whole number, half to even, for |x| < 2^22; larger ones lie outside every range of codes."""
    return (tl.minimum(tl.maximum(x, -4194304.0), 4194304.0) + MAGIC) - MAGIC


@triton.jit
def on_grid(x, scale, zero, qmin, qmax, FLOAT: tl.constexpr, SOFT: tl.constexpr):
    """Value on the grid before the zero point is added: clamp, divide, round. Whole numbers keep MAGIC, which `as_code`
    takes; fp8 rounds when it is stored, but for SOFT, which rounds by hand: Triton's interpreter casts without half to
    even. Clamped first, at multiples of the scale, Inf divides as other numbers do; lifted by a power of two, numbers
    of the least and the greatest scales do."""
    lift = tl.where(scale < 2.0**-60, 2.0**80, tl.where(scale > 2.0**60, 2.0**-80, 1.0))
    scale *= lift
    steps = _divided(tl.minimum(tl.maximum(x * lift, (qmin - zero) * scale), (qmax - zero) * scale), scale, SOFT)
    if FLOAT:
        if SOFT:
            bits = steps.to(tl.int32, bitcast=True)
            normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
            small = ((tl.abs(steps) + 24576.0) - 24576.0) * tl.where(bits < 0, -1.0, 1.0)
            steps = tl.where(tl.abs(steps) < 0.015625, small, normal)
        return steps
    return steps + MAGIC


@triton.jit
def _divided(x, scale, SOFT: tl.constexpr):
    """x / scale, of one true division a scale: x times the reciprocal, and what that leaves of x times it once more.

    Codes change where the true quotient passes a tie, an odd number up to 511 times a power of two. For all of these,
    all 2^23 mantissas of a scale, and each x up to three units in the last place from the product of both, this was
    found to be the true quotient, rounded to nearest."""
    inverse = tl.div_rn(1.0 + tl.zeros_like(scale), scale)
    steps = x * inverse
    return _fma(_fma(steps, scale, x * -1.0, SOFT), -inverse, steps, SOFT)


@triton.jit
def _fma(a, b, c, SOFT: tl.constexpr):
    """a b + c, rounded once. Triton's interpreter rounds its own twice."""
    if SOFT:
        return (a.to(tl.float64) * b.to(tl.float64) + c.to(tl.float64)).to(tl.float32)
    return tl.fma(a, b, c)


@triton.jit
def as_code(value, dtype: tl.constexpr, FLOAT: tl.constexpr, SOFT: tl.constexpr):
    """What `on_grid` gave, the zero point added, as its code: of whole numbers the low bits. To convert costs more."""
    if dtype == tl.int8:
        return value.to(tl.int32, bitcast=True).to(tl.int8)
    elif not FLOAT:
        return (value - MAGIC).to(dtype)
    elif not SOFT and dtype.primitive_bitwidth == 16:
        return value.to(tl.float8e4nv).to(dtype)
    else:
        return value.to(dtype)


@triton.jit
def _range_parts(x_ptr, lo_ptr, hi_ptr, count, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    let_next_early(OVERLAP)
    after_last(OVERLAP)
    part = tl.program_id(0).to(tl.int64)
    high, low = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.uint32)
    for start in range(part * BLOCK, count, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < count, other=0.0).to(tl.float32)
        higher, lower = _ends(x, SYMMETRIC)
        high, low = tl.maximum(high, higher), tl.maximum(low, lower)
    lo, hi = _range_of(high, low)
    tl.store(hi_ptr + part, hi)
    if not SYMMETRIC:
        tl.store(lo_ptr + part, lo)


@triton.jit
def _write(
    x, at, codes_ptr, scale, zero, width, padded, qmin, qmax,
    SYMMETRIC: tl.constexpr, FLOAT: tl.constexpr, SOFT: tl.constexpr, PADS: tl.constexpr,
):  # fmt: skip
    """Stores the codes of a row's piece. Returns the whole numbers that they are before the zero point is added."""
    steps = on_grid(x, scale, zero, qmin, qmax, FLOAT, SOFT)
    codes = steps
    if not SYMMETRIC:
        codes = tl.where(at < width, steps + zero, MAGIC) if PADS else steps + zero
    tl.store(codes_ptr + at, as_code(codes, codes_ptr.dtype.element_ty, FLOAT, SOFT), mask=at < padded)
    return steps.to(tl.int32, bitcast=True) - MAGIC_BITS


@triton.jit(do_not_specialize=["parts"])
def _quantize_rows(
    x_ptr,
    codes_ptr,
    scale_ptr,
    zero_ptr,
    sum_ptr,
    lo_ptr,
    hi_ptr,
    parts,
    width,
    padded,
    half_range,
    qmin,
    qmax,
    RANGE: tl.constexpr,  # "token": found here, "parts": joined from partial ranges, "static": given
    SYMMETRIC: tl.constexpr,
    FLOAT: tl.constexpr,
    SOFT: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,  # the block holds the padded row
    PADS: tl.constexpr,  # padded > width
    PARTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    let_next_early(OVERLAP)
    after_last(OVERLAP)
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)  # what was written or read last is in the cache
    x_ptr += row * width
    codes_ptr += row * padded
    columns = tl.arange(0, BLOCK)
    x = tl.zeros([BLOCK], tl.float32)
    if WHOLE:
        x = tl.load(x_ptr + columns, mask=columns < width, other=0.0).to(tl.float32)
    if RANGE == "static":
        scale = tl.load(scale_ptr)
        zero = 0.0 if SYMMETRIC else tl.load(zero_ptr).to(tl.float32)
    else:
        if RANGE == "parts":
            piece = tl.arange(0, PARTS)
            high, low = _ends(tl.load(hi_ptr + piece, mask=piece < parts, other=0.0), SYMMETRIC)
            if not SYMMETRIC:
                low = tl.load(lo_ptr + piece, mask=piece < parts, other=0.0).to(tl.uint32, bitcast=True)
        else:
            high, low = _ends(x, SYMMETRIC)
            if not WHOLE:
                for start in range(0, width, BLOCK):
                    at = start + columns
                    part = tl.load(x_ptr + at, mask=at < width, other=0.0).to(tl.float32)
                    higher, lower = _ends(part, SYMMETRIC)
                    high, low = tl.maximum(high, higher), tl.maximum(low, lower)
        lo, hi = _range_of(high, low)
        scale, zero = qparams_of(lo, hi, half_range, qmin, qmax, SYMMETRIC)
        at_scale = row if RANGE == "token" else 0
        if RANGE == "token" or row == 0:
            tl.store(scale_ptr + at_scale, scale)
            if not SYMMETRIC:
                tl.store(zero_ptr + at_scale, zero.to(tl.int32))
    total = tl.zeros([BLOCK], tl.int32)
    if WHOLE:
        total = _write(
            x, columns, codes_ptr, scale, zero, width, padded, qmin, qmax, SYMMETRIC, FLOAT, SOFT, PADS
        )  # fmt: skip
    else:
        for start in range(0, padded, BLOCK):
            at = start + columns
            part = tl.load(x_ptr + at, mask=at < width, other=0.0).to(tl.float32)
            total += _write(
                part, at, codes_ptr, scale, zero, width, padded, qmin, qmax, SYMMETRIC, FLOAT, SOFT, PADS
            )  # fmt: skip
    if SUMS:
        tl.store(sum_ptr + row, tl.sum(total, 0))


@triton.jit(do_not_specialize=["groups"])
def _quantize_groups(
    x_ptr,
    codes_ptr,
    scale_ptr,
    groups,
    half_range,
    qmin,
    qmax,
    FLOAT: tl.constexpr,
    SOFT: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    let_next_early(OVERLAP)
    after_last(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = group[:, None] < groups
    start = row * groups * GROUP
    x = tl.load(x_ptr + start + at, mask=inside, other=0.0).to(tl.float32)
    hi = tl.max(absolute_bits(x), 1).to(tl.float32, bitcast=True)
    scale, zero = qparams_of(hi, hi, half_range, qmin, qmax, True)
    tl.store(scale_ptr + row * groups + group, scale, mask=group < groups)
    steps = on_grid(x, scale[:, None], zero[:, None], qmin, qmax, FLOAT, SOFT)
    tl.store(codes_ptr + start + at, as_code(steps, codes_ptr.dtype.element_ty, FLOAT, SOFT), mask=inside)


def quantize_tokens(
    x: Tensor,
    spec: QuantSpec,
    static: QParams | None = None,
    multiple: int = 1,
    sums: bool = False,
    dtype: torch.dtype | None = None,
) -> TokenCodes:
    """The codes of x under a min-max `spec` (tensor, token, or symmetric groups of a power of two), or under `static`.

    Shapes: x (N, K), 16- or 32-bit floats; codes (N, K padded to a multiple of `multiple`), in `dtype` where it is not
    their format's own."""
    x = x.contiguous()
    rows, width = x.shape
    padded = -(-width // multiple) * multiple
    codes = torch.empty(rows, padded, dtype=dtype or spec.fmt.storage, device=x.device)
    grid = (spec.fmt.half_range, spec.fmt.qmin, spec.fmt.qmax)
    if isinstance(spec.granularity, PerGroup):
        return _by_groups(x, codes, spec.granularity.group_size, spec, grid)
    per_token = static is None and isinstance(spec.granularity, PerToken)
    lo = hi = None
    parts = 0
    if static is not None:
        scale = static.scale.reshape(1)
        zero = None if static.zero_point is None else static.zero_point.reshape(1)
    else:
        scale = a_token(rows if per_token else 1, torch.float32, x.device)
        zero = None if spec.symmetric else a_token(len(scale), torch.int32, x.device)
        if not per_token:
            lo, hi, parts = _partial_ranges(x, spec.symmetric)
    total = a_token(rows, torch.int32, x.device) if sums else None
    block = min(triton.next_power_of_2(padded), LONGEST_BLOCK)
    launch(
        _quantize_rows, (rows,), x, codes, scale, zero, total, lo, hi, parts, width, padded, *grid,
        RANGE="static" if static is not None else "token" if per_token else "parts",
        SYMMETRIC=spec.symmetric, FLOAT=spec.fmt.is_float, SOFT=not x.is_cuda, SUMS=sums,
        BLOCK=block, WHOLE=padded <= block, PADS=padded > width, PARTS=PARTS, num_warps=warps_for(block),
        **overlapping(x.device),
    )  # fmt: skip
    return TokenCodes(codes, scale, None if zero is None else zero.to(torch.int32), total)


def _by_groups(x: Tensor, codes: Tensor, group: int, spec: QuantSpec, grid: tuple[Any, ...]) -> TokenCodes:
    rows, width = x.shape
    groups = width // group
    scale = torch.empty(rows, groups, dtype=torch.float32, device=x.device)
    together = min(triton.next_power_of_2(groups), max(1, 4096 // group))
    launch(
        _quantize_groups, (rows, triton.cdiv(groups, together)), x, codes, scale, groups, *grid,
        FLOAT=spec.fmt.is_float, SOFT=not x.is_cuda, GROUP=group, GROUPS=together,
        num_warps=warps_for(group * together), **overlapping(x.device),
    )  # fmt: skip
    return TokenCodes(codes, scale, None, None)


def _partial_ranges(x: Tensor, symmetric: bool) -> tuple[Tensor | None, Tensor, int]:
    block = 8192
    parts = min(PARTS, triton.cdiv(x.numel(), block))
    lo = None if symmetric else torch.empty(parts, dtype=torch.float32, device=x.device)
    hi = torch.empty(parts, dtype=torch.float32, device=x.device)
    launch(
        _range_parts, (parts,), x, lo, hi, x.numel(), SYMMETRIC=symmetric, BLOCK=block, num_warps=8,
        **overlapping(x.device),
    )  # fmt: skip
    return lo, hi, parts


def warps_for(block: int) -> int:
    """Warps that share a row: about 32 numbers a thread."""
    return max(1, min(16, block // 1024))
