"""What a loaded model is made of: blocks, Linears by shape, parameters, bytes; and where it runs.

Counted on the live modules, so it holds for every architecture; `quantcore.model.inventory` answers from file headers
alone.

    anatomy(load_model("reference")).shapes
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quantcore.matmul.size import checkpoint_bytes
from quantcore.model.layer_names import place_of
from quantcore.model.linears import block_names, linears
from quantcore.model.loading import LoadedModel
from quantcore.model.machine import device_name, versions
from quantcore.numbers.bits import FLOAT_BITS


@dataclass(frozen=True)
class LinearShape:
    """All Linears of one shape, (out_features, in_features): what they are called inside a block, and how many."""

    shape: tuple[int, int]
    modules: tuple[str, ...]
    count: int
    weights: int
    bytes_float: int


@dataclass(frozen=True)
class Anatomy:
    """Counts of a float model. Bytes are a 16-bit checkpoint's, a tied parameter counted once."""

    architecture: str
    blocks: int
    linears: int
    shapes: tuple[LinearShape, ...]
    parameters: int
    bytes_float: int
    vocabulary: int
    context: int | None
    device: str
    versions: dict[str, str]


def anatomy(loaded: LoadedModel) -> Anatomy:
    """Count what `loaded` holds; shapes in the model's order."""
    layers = linears(loaded.model)
    return Anatomy(
        architecture=type(loaded.model).__name__,
        blocks=len(block_names(loaded.model)),
        linears=len(layers),
        shapes=_by_shape(layers),
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        bytes_float=checkpoint_bytes(loaded.model),
        vocabulary=len(loaded.tokenizer),
        context=loaded.context,
        device=device_name(loaded.device),
        versions=versions(),
    )


def _by_shape(layers: dict[str, nn.Linear]) -> tuple[LinearShape, ...]:
    names: dict[tuple[int, int], list[str]] = {}
    for name, layer in layers.items():
        names.setdefault((layer.out_features, layer.in_features), []).append(name)
    return tuple(
        LinearShape(
            shape=shape,
            modules=tuple(dict.fromkeys(place_of(name)[1].rpartition(".")[2] for name in members)),
            count=len(members),
            weights=len(members) * shape[0] * shape[1],
            bytes_float=len(members) * shape[0] * shape[1] * FLOAT_BITS // 8,
        )
        for shape, members in names.items()
    )
