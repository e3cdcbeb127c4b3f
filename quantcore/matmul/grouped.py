"""One product for many Linears of one shape, each with rows of its own: experts, for a GPU, where a product each would
leave most of it idle.

    y[i] = x[i] @ W_hat[e(i)]^T + bias[e(i)]         rows sorted by e, counts[e] of them for each

The weights are dequantized all at once, (E, O, K) in the dtype of x, and multiplied by torch's grouped product. Written
without a GPU at hand: right on a CPU, its speed on a GPU is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.products import rounded
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.qtensor import QTensor, dequantize


def why_not_grouped(x: Tensor, layers: Sequence[nn.Module]) -> str | None:
    """Why these layers cannot be multiplied in one product; None where they can."""
    if x.dtype != torch.bfloat16:
        return f"torch's grouped product takes bfloat16, and x is {x.dtype}"
    kinds = {type(layer) for layer in layers}
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


def grouped_product(x: Tensor, counts: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """x (P, K) sorted by layer, counts (E,) rows of each -> (P, O); `why_not_grouped` must have nothing to say."""
    weights = stacked_weights(layers, x.dtype)
    spec = layers[0].activation_spec if isinstance(layers[0], QuantLinear) else None
    x_hat = rounded(x, None, spec, None)
    y = torch._grouped_mm(x_hat, weights.transpose(-2, -1), offs=counts.cumsum(0).to(torch.int32))
    if isinstance(layers[0].bias, Tensor):
        y = y + torch.stack([cast(Tensor, one.bias) for one in layers]).to(y.dtype).repeat_interleave(counts, 0)
    return y


def stacked_weights(layers: Sequence[nn.Module], dtype: torch.dtype) -> Tensor:
    """W_hat of every layer, (E, O, K): codes are joined first and dequantized once."""
    if not isinstance(layers[0], QuantLinear) or layers[0].weight_spec is None:
        held = [cast(Tensor, one.float_weight if isinstance(one, QuantLinear) else one.weight) for one in layers]
        return torch.stack([weight.to(dtype) for weight in held])
    found = [cast(QTensor, cast(QuantLinear, one).qweight) for one in layers]
    scale = torch.cat([one.scale for one in found])
    zero_point = None if found[0].zero_point is None else torch.cat([cast(Tensor, one.zero_point) for one in found])
    together = QTensor(torch.cat([one.q for one in found]), *QParams(scale, zero_point), found[0].spec)
    weights = dequantize(together).to(dtype)
    return weights.view(len(layers), -1, weights.shape[1])
