"""A whole weight out of `low_bit_weight`'s layout: as 16-bit floats, or as codes of 8 bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.kernels.low_bit_weight import BLOCK, PLANE, LowBitWeight
from quantcore.matmul.kernels.unpacking import byte_values, plane_values, scale_of, scales_of_pairs
from quantcore.numbers.kernels.launch import launch


@triton.jit(do_not_specialize=["blocks"])
def _expand(
    w_ptr,
    out_ptr,
    scale_ptr,
    zero_ptr,
    global_ptr,
    N,
    K,
    columns,  # of out
    blocks,
    group,
    BITS: tl.constexpr,
    FLOATS: tl.constexpr,
    POWERS: tl.constexpr,
    PAIRS: tl.constexpr,
    PLANE: tl.constexpr,
    ZERO: tl.constexpr,
    CODES: tl.constexpr,  # q - zero, as it is
    BLOCK_N: tl.constexpr,
):
    block = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.arange(0, PLANE)
    in_n = n < N
    row = n.to(tl.int64)
    if BITS == 4:
        at = w_ptr + block.to(tl.int64) * N * PLANE + row[:, None] * PLANE + j[None, :]
        words = tl.load(at, mask=in_n[:, None], other=0)
    for part in tl.static_range(4):
        start = (block * 4 + part) * PLANE
        k = start + j
        if BITS == 4:
            codes = plane_values(words, part, FLOATS)
        else:
            at = w_ptr + row[:, None] * (blocks * 128) + k[None, :]
            codes = byte_values(tl.load(at, mask=in_n[:, None], other=0), FLOATS)
        at_scale = tl.minimum(start // group, (K - 1) // group) * N + tl.minimum(n, N - 1)
        if ZERO:
            codes -= tl.load(zero_ptr + at_scale, mask=in_n, other=0).to(tl.float32)[:, None]
        if CODES:
            real = codes
        elif PAIRS:
            scales = scales_of_pairs(scale_ptr, start, N, tl.minimum(n, N - 1), j)
            real = codes * tl.div_rn(scales, tl.load(global_ptr) + tl.zeros_like(scales))
        else:
            real = codes * scale_of(scale_ptr, start, at_scale, N, tl.minimum(n, N - 1), POWERS)[:, None]
        real = tl.where(k[None, :] < K, real, 0.0)
        inside = in_n[:, None] & (k[None, :] < columns)
        tl.store(out_ptr + row[:, None] * columns + k[None, :], real.to(out_ptr.dtype.element_ty), mask=inside)


def expand(weight: LowBitWeight, dtype: torch.dtype) -> Tensor:
    """W_hat (O, K) in dtype, columns in the weight's order: scale * (q - zero) in float32, rounded once."""
    return _expanded(weight, torch.empty(weight.shape, dtype=dtype, device=weight.words.device), False)


def expand_codes(weight: LowBitWeight, dtype: torch.dtype) -> Tensor:
    """q - zero (O, padded K) in `dtype`, int8 or e4m3, both of which hold it exactly; zeros where K is padded."""
    rows, width = weight.shape
    out = torch.empty(rows, -(-width // BLOCK) * BLOCK, dtype=dtype, device=weight.words.device)
    return _expanded(weight, out, True)


def _expanded(weight: LowBitWeight, out: Tensor, codes: bool) -> Tensor:
    rows, width = weight.shape
    blocks = triton.cdiv(width, BLOCK)
    launch(
        _expand, (blocks, triton.cdiv(rows, 64)),
        weight.words, out, weight.scale, weight.zero_point, weight.global_scale, rows, width, out.shape[1], blocks,
        weight.group, BITS=weight.bits, **weight.kinds, PLANE=PLANE, ZERO=weight.zero_point is not None, CODES=codes,
        BLOCK_N=64,
    )  # fmt: skip
    return out
