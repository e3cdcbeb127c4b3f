"""Codes of at most 4 bits times codes of 8: W4A8, integers or e4m3 on the side of x.

    y[t, n] = sx[t] * sum over groups G of s[n, G] * sum_{k in G} xq[t, k] (q[n, k] - zero[n, G]) + bias[n]

The weight is read as 4 bits. Few tokens: it is unpacked in registers to 16-bit floats, which hold the codes of x as
well, all of them exactly; float32 sums (`kernels.few_tokens_matmul`, `low_bit_matmul`, `hopper_low_bit`; this one
rounds a weight in groups, times its scales, to bf16 beyond 128 tokens). From 9 tokens on Hopper's tensor cores of 8
bits take codes of 4 without zero points, unpacked in registers to integers or e4m3 (`kernels.hopper_codes`), where a
row has one scale or groups are of whole 128 columns. Elsewhere, with many tokens, q - zero is written once as codes of
8 bits, which is exact too (|q - zero| <= 15 fits e4m3), for the same cores (`kernels.codes_matmul`). Narrower groups
are multiplied in 16 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul import why_not as reasons
from quantcore.matmul.codes import MULTIPLE, CodedWeight, TokenCodes
from quantcore.matmul.kernels.low_bit_weight import LowBitWeight
from quantcore.matmul.products import (
    ROW_MULTIPLE,
    in_order,
    multiply_codes,
    multiply_in_registers,
    scaled_mm,
    token_codes,
)
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerTensor, PerToken
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.spec import MinMax, QuantSpec

FEW_TOKENS = 64  # up to here the weight is unpacked in registers
GROUPED_TOKENS = 512  # the same of groups on Hopper, to bf16 beyond 128 tokens


def why_not(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if activations is None:
        return "activations stay float, and it multiplies codes on both sides; add a: to the scheme"
    fmt = qweight.spec.fmt
    if fmt.is_float or fmt.bits > 4:
        return f"it unpacks whole numbers of at most 4 bits, and the weights are {fmt.name}"
    if activations.fmt.is_float and activations.fmt.name != "fp8_e4m3":
        return f"it takes activations in whole numbers or fp8_e4m3, and they are {activations.fmt.name}"
    if not activations.symmetric:
        return "it takes symmetric activations, and these have zero points"
    grain = activations.granularity
    if not isinstance(grain, PerTensor | PerToken) or activations.scales.is_coded:
        return f"activation scales per {grain} cannot leave the sum over in_features; use token or tensor"
    if activations.observer != MinMax():
        return f"it finds ranges by min and max, and these are found by {activations.observer}"
    if activations.fmt.is_float and (reason := reasons.no_fp8_here(x)) is not None:
        return reason
    return reasons.low_bit(x, qweight, None)


def encode(x: Tensor, weight: LowBitWeight, spec: QuantSpec | None, static: QParams | None) -> TokenCodes:
    assert spec is not None
    kind = codes_type(x, weight, spec)
    multiple = MULTIPLE if kind.itemsize == 1 else 1
    return token_codes(in_order(x, weight, spec, static), spec, static, multiple, dtype=kind)


def codes_type(x: Tensor, weight: LowBitWeight, spec: QuantSpec) -> torch.dtype:
    """What x's codes are kept in: x's type where the weight is unpacked to it in registers, else their own."""
    return x.dtype if _unpacks(x, weight, spec.fmt.storage) else spec.fmt.storage


def _unpacks(x: Tensor, weight: LowBitWeight, codes: torch.dtype) -> bool:
    if not x.is_cuda:
        return len(x) <= FEW_TOKENS
    from quantcore.matmul.kernels import hopper_codes, hopper_low_bit

    if hopper_codes.takes_packed(x, codes, weight, x.dtype):
        return False
    grouped = weight.group < weight.shape[1] and len(x) <= GROUPED_TOKENS
    return len(x) <= FEW_TOKENS or (grouped and hopper_low_bit.takes(x, weight))


def multiply(x: TokenCodes, weight: LowBitWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    from quantcore.matmul.kernels import hopper_codes

    if x.codes.dtype == dtype:
        return _multiply_unpacked(x, weight, bias)
    if hopper_codes.takes_packed(x.codes, x.codes.dtype, weight, dtype):
        return hopper_codes.multiply_packed_many(x, weight, bias, dtype)
    width = weight.shape[1]
    if weight.group < width and weight.group % MULTIPLE:
        from quantcore.matmul.kernels.expand import expand

        x_hat = (x.codes[:, :width].float() * x.scale[:, None]).to(dtype)
        return F.linear(x_hat, expand(weight, dtype), None if bias is None else bias.to(dtype))
    coded = codes_of(weight, x.codes.dtype)
    if coded.rows or not x.codes.dtype.is_floating_point or not x.codes.is_cuda or len(coded.codes) % ROW_MULTIPLE:
        return multiply_codes(x, coded, bias, dtype)
    return scaled_mm(x, coded, bias, dtype)


def _multiply_unpacked(x: TokenCodes, weight: LowBitWeight, bias: Tensor | None) -> Tensor:
    from quantcore.matmul.kernels.low_bit_matmul import multiply_packed

    y = multiply_in_registers(x.codes, weight, bias, x.scale)
    return multiply_packed(x.codes, weight, bias, scale=x.scale) if y is None else y


def codes_of(weight: LowBitWeight, dtype: torch.dtype) -> CodedWeight:
    """The weight in codes of 8 bits of `dtype`, zero points taken off; one scale a row, or one each 128 columns."""
    from quantcore.matmul.kernels.expand import expand_codes

    rows, width = weight.shape
    codes = expand_codes(weight, dtype)
    if weight.group >= width:
        return CodedWeight(codes, weight.scale.view(-1), None, None, rows, weight.turns)
    each = weight.scale.t().repeat_interleave(weight.group // MULTIPLE, 1).contiguous()
    return CodedWeight(codes, each, None, None, rows, weight.turns, rows=1)
