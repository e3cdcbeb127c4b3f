"""One product for many Linears of one shape, each with rows of its own: experts, for a GPU, where a product each would
leave most of it idle.

    y[i] = x[i] @ W_hat[e(i)]^T + bias[e(i)]         rows sorted by e, those of e end at ends[e]

The weights stand as (E, O, K) in the dtype of x, and are multiplied by torch's grouped product; nothing waits for the
GPU. Right on a CPU, its speed on a GPU is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.products import rounded
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.packing import unpack
from quantcore.numbers.qtensor import QTensor, dequantize

CHUNK = 2**26  # numbers
MULTIPLE = 8  # numbers in 16 bytes


def why_not_grouped(x: Tensor, layers: Sequence[nn.Module]) -> str | None:
    """Why these layers cannot be multiplied in one product; None where they can."""
    if x.dtype != torch.bfloat16:
        return f"torch's grouped product takes bfloat16, and x is {x.dtype}"
    kinds = {type(layer) for layer in layers}
    shapes = {(cast(int, one.out_features), cast(int, one.in_features)) for one in layers}
    if len(shapes) > 1 or any(size % MULTIPLE for shape in shapes for size in shape):
        return f"torch's grouped product takes widths that {MULTIPLE} divides, and the layers have {sorted(shapes)[:2]}"
    if len(kinds) > 1 or not kinds <= {nn.Linear, QuantLinear}:
        return "some of the layers are quantized and some are not"
    if not all(isinstance(layer, QuantLinear) for layer in layers):
        return None
    known = cast(Sequence[QuantLinear], layers)
    if len({(one.weight_spec, one.activation_spec) for one in known}) > 1:
        return "the layers have different schemes"
    spec = known[0].weight_spec
    if known[0].static_qparams is not None:
        return "each layer has a range of its own for its inputs"
    if spec is not None and (isinstance(spec.granularity, PerTensor) or any(one.g_idx is not None for one in known)):
        return "the layers' scales cannot stand below one another"
    return None


def grouped_product(x: Tensor, ends: Tensor, layers: Sequence[nn.Module], weights: Tensor | None = None) -> Tensor:
    """x (P, K) sorted by layer, ends (E,) where each layer's rows end, the last at P -> (P, O); `why_not_grouped` must
    have nothing to say. weights: `stacked_weights` of the layers, where they are known."""
    if weights is None:
        weights = stacked_weights(layers, x.dtype)
    spec = layers[0].activation_spec if isinstance(layers[0], QuantLinear) else None
    x_hat = rounded(x, None, spec, None)
    y = torch._grouped_mm(x_hat, weights.transpose(-2, -1), offs=ends.to(torch.int32))
    if isinstance(layers[0].bias, Tensor):
        bias = torch.stack([cast(Tensor, one.bias) for one in layers]).to(y.dtype)
        rows = torch.arange(len(x), device=x.device)
        y = y + bias[torch.searchsorted(ends, rows, right=True)]
    return y


def stacked_weights(layers: Sequence[nn.Module], dtype: torch.dtype) -> Tensor:
    """W_hat of every layer, (E, O, K). Float weights that lie one behind another in memory are not copied; codes are
    dequantized in float32, CHUNK numbers or one layer at a time."""
    if not isinstance(layers[0], QuantLinear) or layers[0].weight_spec is None:
        held = [cast(Tensor, one.float_weight if isinstance(one, QuantLinear) else one.weight) for one in layers]
        found = _as_they_lie(held) if held[0].dtype == dtype else None
        return torch.stack([weight.to(dtype) for weight in held]) if found is None else found
    known = cast(Sequence[QuantLinear], layers)
    rows, width = known[0].out_features, known[0].in_features
    made = torch.empty(len(known), rows, width, dtype=dtype, device=cast(Tensor, known[0].scale).device)
    step = max(1, CHUNK // (rows * width))
    for start in range(0, len(known), step):
        some = known[start : start + step]
        made[start : start + step] = dequantize(joined_codes(some)).view(len(some), rows, width)
    return made


def joined_codes(layers: Sequence[QuantLinear]) -> QTensor:
    """The codes of layers of one spec and shape, below one another, (E O, K)."""

    def together(name: str) -> Tensor | None:
        held = [cast("Tensor | None", getattr(one, name)) for one in layers]
        return None if held[0] is None else torch.cat(cast(list[Tensor], held))

    spec, codes, zero_point = layers[0].weight_spec, together("codes"), together("zero_point")
    assert spec is not None
    assert codes is not None
    if codes.dtype == torch.uint8:
        codes = unpack(codes, spec.fmt.bits, layers[0].in_features)
    scale, zero_point = cast(Tensor, together("scale")), None if zero_point is None else zero_point.float()
    return QTensor(codes, scale, zero_point, spec, global_scale=together("global_scale"))


def _as_they_lie(weights: Sequence[Tensor]) -> Tensor | None:
    """Matrices of one memory, at equal distances, as one tensor (E, O, K) of it; None where they are not so, or where a
    grouped product could not read them."""
    first = weights[0]
    step = weights[1].storage_offset() - first.storage_offset() if len(weights) > 1 else first.numel()
    if step <= 0 or first.stride()[1] != 1 or any((one * first.element_size()) % 16 for one in (step, first.stride(0))):
        return None
    memory = first.untyped_storage().data_ptr()
    for number, one in enumerate(weights):
        alike = one.shape == first.shape and one.stride() == first.stride() and one.dtype == first.dtype
        here = first.storage_offset() + number * step
        if not alike or one.untyped_storage().data_ptr() != memory or one.storage_offset() != here:
            return None
    return first.detach().as_strided((len(weights), *first.shape), (step, *first.stride()))
