"""How many bytes and bits per weight a quantized model takes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes the model takes in a checkpoint: 16 bits a float parameter (tied ones once), codes, scales and zero points
    of the quantized layers as QTensor.bits_per_weight counts them."""
    bits = 0.0
    inside: set[int] = set()
    for layer in quantized_linears(model).values():
        qweight = layer.qweight
        bits += (
            qweight.bits_per_weight * qweight.q.numel()
            if qweight
            else CHECKPOINT_FLOAT_BITS * layer.weight_hat().numel()
        )
        bits += CHECKPOINT_FLOAT_BITS * (layer.bias.numel() if isinstance(layer.bias, Tensor) else 0)
        inside.update(id(parameter) for parameter in layer.parameters())
    bits += sum(CHECKPOINT_FLOAT_BITS * p.numel() for p in model.parameters() if id(p) not in inside)
    return math.ceil(bits / 8)


def bits_per_weight(model: nn.Module) -> float:
    """Mean bits a weight over the quantized layers, scales and zero points counted; 16 if none is quantized."""
    weights = [q for layer in quantized_linears(model).values() if (q := layer.qweight) is not None]
    numbers = sum(q.q.numel() for q in weights)
    return sum(q.bits_per_weight * q.q.numel() for q in weights) / numbers if numbers else float(CHECKPOINT_FLOAT_BITS)


CHECKPOINT_FLOAT_BITS = 16


def quantized_linears(model: nn.Module) -> dict[str, QuantLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}
