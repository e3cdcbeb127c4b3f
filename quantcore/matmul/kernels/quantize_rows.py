"""Tokens to codes in one pass: read a token once, find its range, write its codes and its scale.

    symmetric   s = absmax / half_range                 q = round(clamp(x / s))
    asymmetric  s = (hi - lo) / (qmax - qmin)           z = clamp(round(qmin - lo / s))      q = round(x / s) + z

The codes are those of `qtensor.quantize`, bit for bit: true division, half to even, clamped before rounding. A range of
the whole tensor needs all of it before the first code, so a first kernel leaves PARTS partial ranges, which every
program of the second one joins. Rows are padded with zero codes, so that a matmul needs no mask along K.

NaN and Inf are not refused as on the CPU (that would wait for the GPU); a token that holds one gets a scale of NaN or
Inf, and its outputs become NaN.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.codes import TokenCodes
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerGroup, PerToken
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next, overlapping
from quantcore.numbers.spec import QuantSpec

LONGEST_BLOCK = 16384
PARTS = 512
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, half to even


@triton.jit
def absolute_bits(x):
    """|x| as an integer that grows with it; NaN is the largest of all."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


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
    return scale, zero


@triton.jit
def _round(x):
    """To the nearest whole number, half to even, for |x| < 2^22; larger ones lie outside every range of codes."""
    return (tl.minimum(tl.maximum(x, -4194304.0), 4194304.0) + MAGIC) - MAGIC


@triton.jit
def on_grid(x, scale, zero, qmin, qmax, FLOAT: tl.constexpr, SOFT: tl.constexpr):
    """Value on the grid before the zero point is added: clamp, then round. fp8 rounds when it is stored, but for SOFT,
    which rounds by hand: Triton's interpreter casts without half to even."""
    steps = tl.minimum(tl.maximum(tl.div_rn(x, scale), qmin - zero), qmax - zero)
    if FLOAT:
        if SOFT:
            bits = steps.to(tl.int32, bitcast=True)
            normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
            steps = tl.where(tl.abs(steps) < 0.015625, (steps + 24576.0) - 24576.0, normal)
        return steps
    return (steps + MAGIC) - MAGIC


@triton.jit
def as_code(value, dtype: tl.constexpr, FLOAT: tl.constexpr, SOFT: tl.constexpr):
    """A value on the grid as its code. Whole numbers stand in the low bits of value + MAGIC; converting costs more."""
    if dtype == tl.int8:
        return (value + MAGIC).to(tl.int32, bitcast=True).to(tl.int8)
    elif FLOAT and not SOFT and dtype.primitive_bitwidth == 16:
        return value.to(tl.float8e4nv).to(dtype)
    else:
        return value.to(dtype)


@triton.jit
def _range_parts(
    x_ptr, lo_ptr, hi_ptr, count, per_part, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    after_last(OVERLAP)
    let_next(OVERLAP)
    part = tl.program_id(0).to(tl.int64)
    begin = part * per_part
    end = tl.minimum(begin + per_part, count)
    lo = tl.zeros([BLOCK], tl.float32)
    hi = tl.zeros([BLOCK], tl.float32)
    bits = tl.zeros([BLOCK], tl.int32)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < end, other=0.0).to(tl.float32)
        if SYMMETRIC:
            bits = tl.maximum(bits, absolute_bits(x))
        else:
            lo = tl.minimum(lo, x, propagate_nan=tl.PropagateNan.ALL)
            hi = tl.maximum(hi, x, propagate_nan=tl.PropagateNan.ALL)
    if SYMMETRIC:
        tl.store(hi_ptr + part, tl.max(bits, 0).to(tl.float32, bitcast=True))
    else:
        tl.store(lo_ptr + part, tl.min(lo, 0))
        tl.store(hi_ptr + part, tl.max(hi, 0))


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
    PARTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_last(OVERLAP)
    let_next(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * width
    codes_ptr += row * padded
    columns = tl.arange(0, BLOCK)
    x = tl.zeros([BLOCK], tl.float32)
    if WHOLE:
        x = tl.load(x_ptr + columns, mask=columns < width, other=0.0).to(tl.float32)
    lo = 0.0
    hi = 0.0
    if RANGE == "static":
        scale = tl.load(scale_ptr)
        zero = 0.0 if SYMMETRIC else tl.load(zero_ptr).to(tl.float32)
    else:
        if RANGE == "parts":
            piece = tl.arange(0, PARTS)
            hi = tl.max(absolute_bits(tl.load(hi_ptr + piece, mask=piece < parts, other=0.0)), 0).to(
                tl.float32, bitcast=True
            )
            if not SYMMETRIC:
                lo = tl.min(tl.load(lo_ptr + piece, mask=piece < parts, other=0.0), 0)
        elif SYMMETRIC:
            bits = absolute_bits(x)
            if not WHOLE:
                for start in range(0, width, BLOCK):
                    at = start + columns
                    part = tl.load(x_ptr + at, mask=at < width, other=0.0).to(tl.float32)
                    bits = tl.maximum(bits, absolute_bits(part))
            hi = tl.max(bits, 0).to(tl.float32, bitcast=True)
        else:
            low, high = tl.minimum(x, 0.0), tl.maximum(x, 0.0)
            if not WHOLE:
                for start in range(0, width, BLOCK):
                    at = start + columns
                    part = tl.load(x_ptr + at, mask=at < width, other=0.0).to(tl.float32)
                    low, high = tl.minimum(low, part), tl.maximum(high, part)
            lo, hi = tl.min(low, 0), tl.max(high, 0)
        scale, zero = qparams_of(lo, hi, half_range, qmin, qmax, SYMMETRIC)
        at_scale = row if RANGE == "token" else 0
        if RANGE == "token" or row == 0:
            tl.store(scale_ptr + at_scale, scale)
            if not SYMMETRIC:
                tl.store(zero_ptr + at_scale, zero.to(tl.int32))
    if WHOLE:
        steps = on_grid(x, scale, zero, qmin, qmax, FLOAT, SOFT)
        inside = columns < width
        codes = tl.where(inside, steps + zero, 0.0)
        tl.store(codes_ptr + columns, as_code(codes, codes_ptr.dtype.element_ty, FLOAT, SOFT), mask=columns < padded)
        if SUMS:
            tl.store(sum_ptr + row, tl.sum(tl.where(inside, steps, 0.0).to(tl.int32), 0))
    else:
        total = tl.zeros([BLOCK], tl.int32)
        for start in range(0, padded, BLOCK):
            at = start + columns
            part = tl.load(x_ptr + at, mask=at < width, other=0.0).to(tl.float32)
            steps = on_grid(part, scale, zero, qmin, qmax, FLOAT, SOFT)
            codes = tl.where(at < width, steps + zero, 0.0)
            tl.store(codes_ptr + at, as_code(codes, codes_ptr.dtype.element_ty, FLOAT, SOFT), mask=at < padded)
            if SUMS:
                total += tl.where(at < width, steps, 0.0).to(tl.int32)
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
    after_last(OVERLAP)
    let_next(OVERLAP)
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
    tl.store(codes_ptr + start + at, steps.to(codes_ptr.dtype.element_ty), mask=inside)


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
        scale = torch.empty(rows if per_token else 1, dtype=torch.float32, device=x.device)
        zero = None if spec.symmetric else torch.empty_like(scale, dtype=torch.int32)
        if not per_token:
            lo, hi, parts = _partial_ranges(x, spec.symmetric)
    total = torch.empty(rows, dtype=torch.int32, device=x.device) if sums else None
    block = min(triton.next_power_of_2(padded), LONGEST_BLOCK)
    launch(
        _quantize_rows, (rows,), x, codes, scale, zero, total, lo, hi, parts, width, padded, *grid,
        RANGE="static" if static is not None else "token" if per_token else "parts",
        SYMMETRIC=spec.symmetric, FLOAT=spec.fmt.is_float, SOFT=not x.is_cuda, SUMS=sums,
        BLOCK=block, WHOLE=padded <= block, PARTS=PARTS, num_warps=warps_for(block),
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
    per_part = triton.cdiv(triton.cdiv(x.numel(), parts), block) * block
    lo = None if symmetric else torch.empty(parts, dtype=torch.float32, device=x.device)
    hi = torch.empty(parts, dtype=torch.float32, device=x.device)
    launch(
        _range_parts,
        (parts,),
        x,
        lo,
        hi,
        x.numel(),
        per_part,
        SYMMETRIC=symmetric,
        BLOCK=block,
        num_warps=8,
        **overlapping(x.device),
    )
    return lo, hi, parts


def warps_for(block: int) -> int:
    """Warps that share a row: about 32 numbers a thread."""
    return max(1, min(16, block // 1024))
