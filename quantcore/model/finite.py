"""Norms, biases and embeddings of NaN or infinity are refused when a model is opened.

With one of them every figure of the model is NaN, and none of its layers is to blame. A Linear's weight is looked at
where it is quantized: a plan can leave that layer out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantcore.model.linears import every_linear
from quantcore.model.sentences import named, quoted


def require_finite(source: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raises: ValueError for the first tensor that holds NaN or infinity."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            lo, hi = (float(end) for end in torch.aminmax(tensor))
            if not (math.isfinite(lo) and math.isfinite(hi)):
                raise ValueError(
                    f"could not load {named(source)}: its {quoted(name)} holds NaN or infinity ({lo:g} to {hi:g}), so "
                    "every figure of the model would be NaN; download it again, or take the weights from elsewhere"
                )


def beside_linears(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """The parameters that are no Linear's weight, by name."""
    weights = {f"{name}.weight" for name in every_linear(model)}
    return ((name, one) for name, one in model.named_parameters() if name not in weights)
