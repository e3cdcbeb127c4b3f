"""What a checkpoint of a scheme would take, byte by byte, from the model's shapes alone: nothing is quantized.

    parts = stored(model, "W4A16", torch.bfloat16)
    parts.bytes, parts.bits_per_weight, parts.float_bytes

    codes         of `pack-quantized` ceil(K b / 32) words of 32 bits a row, and the shape; else a byte a code
    scales        one a tile, and one of each static activation range, in the checkpoint's float type
    zero points   as the codes: packed along the rows, or a byte each
    float rest    embeddings, norms, biases, skipped layers; tied tensors once

The layouts are compressed-tensors' (`checkpoint_format`). What that format cannot hold is counted as if its codes were
packed without gaps, and `layouts` is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantcore.model.linears import linears
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

WORD_BITS, WORD_BYTES = 32, 4
SHAPE_BYTES = 16  # weight_shape: two int64


@dataclass(frozen=True)
class Stored:
    """Bytes by part. weights: numbers that are codes; float_bytes: the model before; dtype: of all that is no code;
    layouts: the formats in use, empty where compressed-tensors has none for the plan."""

    codes: int
    scales: int
    zero_points: int
    floats: int
    weights: int
    float_bytes: int
    dtype: str
    layouts: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return self.codes + self.scales + self.zero_points + self.floats

    @property
    def bits_per_weight(self) -> float | None:
        """Bits that a quantized weight costs on disk, its share of scales and zero points counted; None without any."""
        return 8 * (self.codes + self.scales + self.zero_points) / self.weights if self.weights else None


def stored(model: nn.Module, plan: Plan | Scheme | str, dtype: torch.dtype) -> Stored:
    """The bytes of the tensors that `export_checkpoint(..., dtype=dtype)` would write.

    Raises: ValueError for a pattern that fits no layer, and a tile that does not divide one, with the layer's name."""
    plan, layers = Plan.of(plan), linears(model)
    plan.require_layers(layers)
    schemes = {name: found for name in layers if (found := plan.scheme_for(name)) is not None and found.weights}
    layouts = _layouts(schemes)
    codes = scales = zero_points = weights = 0
    floats = _float_bytes(model, dtype, {layers[name] for name in schemes})
    for name, scheme in schemes.items():
        assert scheme.weights is not None
        shape = (layers[name].out_features, layers[name].in_features)
        try:
            tiles = _tiles(scheme.weights, shape)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        codes += _code_bytes(scheme.weights, shape, layouts.get(name))
        scales += math.prod(tiles) * dtype.itemsize
        if not scheme.weights.symmetric:
            zero_points += _zero_point_bytes(scheme.weights, tiles, layouts.get(name))
        if scheme.activations is not None and scheme.activations.static:
            scales += dtype.itemsize
            zero_points += not scheme.activations.symmetric
        if isinstance(bias := layers[name].bias, Tensor):
            floats += bias.numel() * dtype.itemsize
        weights += math.prod(shape)
    whole = _float_bytes(model, dtype, set())
    used = tuple(dict.fromkeys(layouts.values()))
    return Stored(codes, scales, zero_points, floats, weights, whole, str(dtype).removeprefix("torch."), used)


def _layouts(schemes: Mapping[str, Scheme]) -> dict[str, str]:
    """The format of each layer's codes; none for any of them where the checkpoint cannot be written."""
    from quantcore.export.checkpoint_format import group, why_not  # compressed-tensors takes a second to import

    different = set(schemes.values())
    if any(why_not(scheme) is not None for scheme in different):
        return {}
    found = {scheme: str(group(scheme, ["Linear"], len(different) == 1).format) for scheme in different}
    return {name: found[scheme] for name, scheme in schemes.items()}


def _tiles(spec: QuantSpec, shape: tuple[int, int]) -> tuple[int, int]:
    """How many tiles there are along the rows and along the columns."""
    rows, columns = spec.granularity.tile(shape)
    return shape[0] // rows, shape[1] // columns


def _code_bytes(spec: QuantSpec, shape: tuple[int, int], layout: str | None) -> int:
    if layout is None:
        return math.ceil(spec.fmt.bits * math.prod(shape) / 8)
    if layout == "pack-quantized":
        return shape[0] * math.ceil(shape[1] * spec.fmt.bits / WORD_BITS) * WORD_BYTES + SHAPE_BYTES
    return math.prod(shape)


def _zero_point_bytes(spec: QuantSpec, tiles: tuple[int, int], layout: str | None) -> int:
    from quantcore.export.checkpoint_format import packs_zero_points

    if layout is None:
        return math.ceil(spec.fmt.bits * math.prod(tiles) / 8)
    if layout == "pack-quantized" and packs_zero_points(spec):
        return math.ceil(tiles[0] * spec.fmt.bits / WORD_BITS) * tiles[1] * WORD_BYTES
    return 1 if isinstance(spec.granularity, PerTensor) else math.prod(tiles)


def _float_bytes(model: nn.Module, dtype: torch.dtype, without: set[nn.Module]) -> int:
    """Bytes of the tensors of all modules but some, each once."""
    tensors = {id(tensor): tensor for module in model.modules() if module not in without for tensor in _own(module)}
    return sum(one.numel() * (dtype.itemsize if one.is_floating_point() else one.itemsize) for one in tensors.values())


def _own(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module itself that its state dict holds."""
    yield from module.parameters(recurse=False)
    passing = module._non_persistent_buffers_set
    yield from (buffer for name, buffer in module.named_buffers(recurse=False) if name not in passing)
