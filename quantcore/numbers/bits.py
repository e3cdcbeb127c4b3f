"""How many bits a quantized layer takes; nothing else counts them.

    size = weight_size(spec, (4096, 4096))            codes without gaps, 16-bit scales, or coded ones
    size.bytes, size.bits_per_weight

    codes         of each row, as the layout keeps them: without gaps, or in whole words or bytes
    scales        one a tile, in the checkpoint's float type or coded (`scales`), and a global one of 32 bits where
                  coded ones have it
    zero points   as many, where asymmetric, as the layout keeps them
    g_idx         32 bits a column, where groups are formed of columns that are no neighbours
    inputs        scale and zero point of the layer's input, where its range is frozen
    cache         of keys or values, codes as they lie in memory, scales of 32 bits where they are not coded
    cache_scales  of a KV cache, where they are frozen and a checkpoint holds them
    shapes        of packed codes, which a file keeps beside them
    floats        all that is no layer's of codes: `matmul.size` adds it up over a model

A layout says how codes lie in a file or in memory; those of checkpoints are in `export.words`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from quantcore.numbers.packing import codes_per_byte
from quantcore.numbers.spec import QuantSpec

FLOAT_BITS = 16  # of a number that is no code, in a checkpoint
G_IDX_BITS = 32
CACHE_SCALE_BITS = 32  # of a float scale in a KV cache: it is never written to a file

Line = Callable[[int, int], int]
"""Bits of a line of n codes of b bits each, (b, n) -> bits."""


@dataclass(frozen=True)
class Layout:
    """How codes lie: those of a row of the weight, the zero points of a column of tiles, and bits for the shape."""

    codes: Line
    zero_points: Line
    shape_bits: int = 0


def close(bits: int, count: int) -> int:
    """One behind the other, without gaps."""
    return bits * count


def in_words(bits: int, count: int) -> int:
    """Without gaps in words of 32 bits, the last one filled up."""
    return 32 * math.ceil(bits * count / 32)


def in_bytes(bits: int, count: int) -> int:
    """A byte each."""
    return 8 * count


def sharing_bytes(bits: int, count: int) -> int:
    """As many as fit into a byte (`packing`)."""
    return 8 * math.ceil(count / codes_per_byte(bits))


CLOSE = Layout(close, close)
HELD = Layout(sharing_bytes, in_bytes)  # in a QuantLinear


@dataclass(frozen=True)
class Size:
    """Bits by part; `numbers`: how many numbers the codes stand for."""

    codes: int = 0
    scales: int = 0
    zero_points: int = 0
    g_idx: int = 0
    inputs: int = 0
    floats: int = 0
    numbers: int = 0
    cache_scales: int = 0
    shapes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Size)))

    @property
    def bits(self) -> int:
        coded = self.codes + self.scales + self.zero_points + self.g_idx
        return coded + self.inputs + self.floats + self.cache_scales + self.shapes

    @property
    def bytes(self) -> int:
        return math.ceil(self.bits / 8)

    @property
    def bits_per_weight(self) -> float:
        """What a number costs: its code, its share of scales, zero points, group numbers; FLOAT_BITS without codes."""
        rest = self.inputs + self.floats + self.cache_scales + self.shapes
        return (self.bits - rest) / self.numbers if self.numbers else float(FLOAT_BITS)


def weight_size(
    spec: QuantSpec,
    shape: Sequence[int],
    g_idx: bool = False,
    layout: Layout = CLOSE,
    float_bits: int = FLOAT_BITS,
) -> Size:
    """The size of a weight (..., O, K) under `spec`; `g_idx`: whether each column's group is stored, `float_bits`: of a
    scale. Raises: ValueError for a tile that does not divide the shape."""
    tiles = [size // part for size, part in zip(shape, spec.granularity.tile(shape), strict=True)]
    bits, columns = spec.fmt.bits, math.prod(tiles[:-2]) * tiles[-1]
    return Size(
        codes=math.prod(shape[:-1]) * layout.codes(bits, shape[-1]),
        scales=math.prod(tiles) * spec.scales.stored_bits(float_bits) + spec.scales.global_bits,
        zero_points=0 if spec.symmetric else columns * layout.zero_points(bits, math.prod(tiles[-2:-1])),
        g_idx=G_IDX_BITS * shape[-1] if g_idx else 0,
        numbers=math.prod(shape),
        shapes=layout.shape_bits,
    )


def cache_size(spec: QuantSpec | None, heads: int, tokens: int, head_dim: int, float_bits: int = FLOAT_BITS) -> Size:
    """What a layer's keys, or its values, take for a sequence in a KV cache; `spec` None: `float_bits` each.

    Codes share bytes as they do in memory, scales that are floats have 32 bits; those that are frozen are counted once.
    Raises: ValueError for a group that does not divide head_dim."""
    if spec is None:
        return Size(floats=heads * tokens * head_dim * float_bits)
    return weight_size(spec, (heads, tokens, head_dim), layout=HELD, float_bits=CACHE_SCALE_BITS)


@dataclass(frozen=True)
class Coded:
    """A Linear whose weight is codes, or will be; `g_idx`: whether it carries each column's group."""

    shape: tuple[int, int]
    weights: QuantSpec
    activations: QuantSpec | None = None
    g_idx: bool = False


def layer_size(layer: Coded, layout: Layout = CLOSE, float_bits: int = FLOAT_BITS) -> Size:
    """The size of a Linear's weight, and of its input's range where that is frozen. Raises: as `weight_size`."""
    size = weight_size(layer.weights, layer.shape, layer.g_idx, layout, float_bits)
    if (inputs := layer.activations) is None or not inputs.static:
        return size
    if inputs.local:
        return size + Size(inputs=inputs.scales.global_bits)
    return size + Size(inputs=float_bits + (0 if inputs.symmetric else layout.zero_points(inputs.fmt.bits, 1)))
