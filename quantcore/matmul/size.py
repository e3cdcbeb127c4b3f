"""How many bytes a model takes in a checkpoint, before it is quantized or after.

    model_size(model, coded_layers(model)).bytes          a quantized model, as it is
    model_size(model, {name: Coded(...)})                 a float model, as it would be under a plan

What is no code takes 16 bits a number (or those of `float_bits`): embeddings, norms, biases, layers that stay float;
what several modules share is counted once. How codes are counted: `numbers.bits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.numbers.bits import CLOSE, FLOAT_BITS, Coded, Layout, Size, layer_size


def model_size(
    model: nn.Module,
    coded: Mapping[str, Coded],
    layouts: Mapping[str, Layout] | None = None,
    float_bits: int = FLOAT_BITS,
) -> Size:
    """The size of a checkpoint of `model` in which the layers named in `coded` are codes, each in its layout (CLOSE
    where it has none). Nothing is read but shapes, so the model may be on the meta device.

    Raises: ValueError for a tile that does not divide a layer, with the layer's name."""
    kept = {id(one): one for name, module in model.named_modules() for one in _floats(module, name in coded)}.values()
    each = ((one.numel(), float_bits if one.is_floating_point() else 8 * one.itemsize) for one in kept)
    size = Size(floats=sum(count * bits for count, bits in each))
    for name, layer in coded.items():
        try:
            size += layer_size(layer, (layouts or {}).get(name, CLOSE), float_bits)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return size


def _floats(module: nn.Module, coded: bool) -> Iterator[Tensor]:
    """The tensors of a module itself that its checkpoint holds as they are."""
    if isinstance(module, QuantLinear):
        yield from (one for one in (module.float_weight, module.bias) if isinstance(one, Tensor))
        return
    passing = module._non_persistent_buffers_set
    yield from (one for name, one in module.named_parameters(recurse=False) if not (coded and name == "weight"))
    yield from (one for name, one in module.named_buffers(recurse=False) if name not in passing)


def coded_layers(model: nn.Module) -> dict[str, Coded]:
    """The layers of a quantized model that hold codes."""
    return {
        name: Coded(
            (layer.out_features, layer.in_features), layer.weight_spec, layer.activation_spec, layer.g_idx is not None
        )
        for name, layer in quantized_linears(model).items()
        if layer.weight_spec is not None
    }


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of a model as it is, float or quantized, codes without gaps, 16 bits for every other number."""
    return model_size(model, coded_layers(model)).bytes


def bits_per_weight(model: nn.Module) -> float:
    """Mean bits a weight over the quantized layers, scales and zero points counted; 16 if none is quantized."""
    return model_size(model, coded_layers(model)).bits_per_weight


def quantized_linears(model: nn.Module) -> dict[str, QuantLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}
