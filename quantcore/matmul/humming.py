"""Humming, vLLM's kernels for quantized products, as one more path: `pip install humming-kernels` (0.1.20 is what the
tests were run with). It compiles a kernel for each layer's shape and formats at first use, seconds each, with nvcc or
nvrtc (https://github.com/vllm-project/humming).

The weight's codes are ours, put into its layout, and so are the codes of activations; it scales them as vLLM does:
scales of weights are rounded to bfloat16 first, as they lie in checkpoints. So y is that of `dequantize` up to 2^-9 of
each scale, and the rounding of float32 sums; because of that no layer takes this path unasked.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantcore.matmul.codes import MULTIPLE, TokenCodes
from quantcore.matmul.products import token_codes
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerToken
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.spec import QuantSpec

ROWS = 64  # O is a multiple of it
INPUTS = {"int8": "int8", "fp8_e4m3": "float8e4m3"}


class HummingWeight(NamedTuple):
    """A weight in Humming's layout.

    weight, scale    its tensors
    locks            how far a tile is whose columns several programs share; zeros between products
    config           what it compiles a kernel for
    order            x's columns in the order of the weight's; None where as they come"""

    weight: Tensor
    scale: Tensor
    locks: Tensor
    config: Any
    order: Tensor | None


@cache
def installed() -> bool:
    return importlib.util.find_spec("humming") is not None


def why_not(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    """Of x only device and dtype are read."""
    if not installed():
        return "it needs Humming, vLLM's kernels, which is not installed; pip install humming-kernels"
    if x.device.type != "cuda":
        return f"Humming runs on NVIDIA GPUs and x is on the {x.device.type}"
    if x.dtype != torch.bfloat16:
        return f"here Humming is given x in bfloat16, not {str(x.dtype).removeprefix('torch.')}"
    fmt, (out, width) = qweight.spec.fmt, qweight.q.shape
    if qweight.zero_point is not None or qweight.spec.scales.is_coded or (fmt.is_float and fmt.name != "fp8_e4m3"):
        return f"here Humming is given symmetric whole numbers or fp8_e4m3 under float scales, not {qweight.spec}"
    if qweight.scale.shape[0] != out:
        return f"here Humming is given scales per channel or group, not per {qweight.spec.granularity}"
    groups = qweight.scale.shape[1]
    if out % ROWS or width % MULTIPLE or (groups > 1 and (width // groups) % 32):
        return (
            f"Humming takes {ROWS} rows, {MULTIPLE} columns and groups of 32 or multiples of them, not {out} x {width}"
        )
    if activations is None:
        return None
    if activations.fmt.name not in INPUTS or activations.static or activations.granularity != PerToken():
        return f"here Humming is given int8 or fp8_e4m3 activations, per token and dynamic, not {activations}"
    if not activations.symmetric or activations.scales.is_coded:
        return "Humming takes symmetric activations"
    if activations.fmt.is_float == fmt.is_float:
        wide = fmt.bits > activations.fmt.bits
    else:
        wide = not activations.fmt.is_float or fmt.bits > 5  # e4m3 holds whole numbers of 5 bits
    if wide:
        return f"{fmt.name} weights do not fit {activations.fmt.name}, in which Humming multiplies"
    if activations.fmt.name == "int8" and groups > 1:
        return "with int8 activations Humming rounds scales of groups to whole numbers; use scales per channel"
    return None


def prepare(qweight: QTensor, activations: QuantSpec | None) -> HummingWeight:
    """The codes in Humming's layout, scales in bfloat16."""
    from humming.layer import HummingLayer

    fmt, codes, order = qweight.spec.fmt, qweight.q, None
    if qweight.g_idx is not None:
        order = torch.sort(qweight.g_idx, stable=True).indices
        codes = codes[:, order]
    (out, width), groups = codes.shape, qweight.scale.shape[1]
    weights: dict[str, Any] = {"dtype": "float8e4m3" if fmt.is_float else f"int{fmt.bits}"}
    if groups > 1:
        weights["group_size"] = width // groups
    inputs = None if activations is None else {"dtype": INPUTS[activations.fmt.name]}
    with torch.cuda.device(codes.device):
        layer = HummingLayer(
            shape_n=out, shape_k=width, weight_config=weights, input_config=inputs, torch_dtype=torch.bfloat16
        ).to(codes.device)
        layer.load_from_tensors({"weight": packed(codes, fmt.bits), "weight_scale": qweight.scale.to(torch.bfloat16)})
        layer.transform()
    return HummingWeight(layer.weight.data, layer.weight_scale.data, layer.locks, layer.humming_config, order)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes (O, K) as a row of bits, (O, K * bits / 32) int32, the first in the lowest bits; whole numbers as
    code + 2^(bits - 1)."""
    if codes.dtype.is_floating_point:
        return codes.contiguous().view(torch.int32)
    unsigned = codes.view(len(codes), -1, 32).to(torch.int64) + 2 ** (bits - 1)
    words = unsigned.new_zeros(*unsigned.shape[:2], bits + 1)
    for place in range(32):  # of 32 codes, which fill so many words as a code has bits
        word, shift = divmod(place * bits, 32)
        part = unsigned[..., place] << shift
        words[..., word] |= part & 0xFFFFFFFF
        words[..., word + 1] |= part >> 32  # what did not fit
    row = words[..., :bits].flatten(1)
    signed: Tensor = row - (row >> 31 << 32)
    return signed.to(torch.int32)


def encode(x: Tensor, weight: HummingWeight, spec: QuantSpec | None, static: QParams | None) -> Tensor | TokenCodes:
    ordered = x.contiguous() if weight.order is None else x.index_select(1, weight.order)
    return ordered if spec is None else token_codes(ordered, spec, static)


def multiply(x: Tensor | TokenCodes, weight: HummingWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    from humming.forward import humming_forward

    codes, scale = (x, None) if isinstance(x, Tensor) else (x.codes, x.scale[:, None])
    y = humming_forward(
        weight.config, codes, weight.weight, weight_scale=weight.scale, input_scale=scale, locks=weight.locks
    )
    whole: Tensor = y if bias is None else y + bias
    return whole.to(dtype)
