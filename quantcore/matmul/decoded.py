"""A quantized model whose layers keep their weights decoded: for many short calls on a CPU, as writing token by token.

A layer on a CPU decodes its codes anew at each call. For a text that is a small part of the product; for one token it
is nearly all of the time. Decoded once, it is a plain Linear with the same numbers: x @ W_hat^T + bias.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.numbers.qtensor import dequantize


def decoded(model: nn.Module) -> nn.Module:
    """The model, changed: each layer as `decoded_layer` gives it, in the float type of the model."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    for name, layer in quantized_linears(model).items():
        model.set_submodule(name, decoded_layer(layer, like))
    return model


def decoded_layer(layer: QuantLinear, like: Tensor) -> nn.Module:
    """On the CPU, where the inputs stay float, the layer with its weight decoded, in the type of `like`. What rounds
    its inputs stays as it is, and so does all on a GPU, whose kernels multiply codes."""
    weight = layer.qweight if like.device.type == "cpu" and layer.activation_spec is None else None
    return layer if weight is None else _linear(layer, dequantize(weight).to(like.dtype))


def _linear(layer: QuantLinear, weight: Tensor) -> nn.Linear:
    bias, dtype = cast("Tensor | None", layer.bias), weight.dtype
    made = nn.Linear(layer.in_features, layer.out_features, bias is not None, device="meta", dtype=dtype)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return made
