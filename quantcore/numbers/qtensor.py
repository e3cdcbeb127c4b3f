"""A QTensor is codes plus the scales (and zero points) that give them meaning; three verbs make and unmake it.

    quantize(x, spec) -> QTensor        dequantize(qtensor) -> reals        fake_quantize = dequantize(quantize(x))

Which numbers share a scale: `spec.granularity.tile(shape)`. A tensor of shape (d0, d1) with tiles (t0, t1) is viewed as
(d0/t0, t0, d1/t1, t1), so that a scale of shape (d0/t0, d1/t1), viewed as (d0/t0, 1, d1/t1, 1), broadcasts over its
tile. Every granularity is this one view; any rank works.

GPTQ with actorder=group forms groups of columns that are no neighbours; then `g_idx` names each column's group, and the
view is replaced by a gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.numbers.affine import QParams, choose_qparams, from_grid, round_trip, to_grid
from quantcore.numbers.bits import HELD, weight_size
from quantcore.numbers.jitter import moved
from quantcore.numbers.observers import tile_range
from quantcore.numbers.spec import MinMax, QuantSpec


@dataclass(frozen=True, eq=False)
class QTensor:
    """Codes and their scales, in the shapes that the granularity says.

    q            codes, dtype spec.fmt.storage, one element a code
    scale        float32, the rank of q; q.shape / scale.shape is the tile
    zero_point   like scale, whole numbers of [qmin, qmax]; None exactly when spec.symmetric
    global_scale (1,) float32 under which the scales are codes, where their format has one (`scales`); of tensors that
                 were put together one each
    g_idx        (K,), int32: the column of `scale` that serves each column of a matrix q; None where groups are
                 neighbours, g_idx[k] = k // tile
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor | None
    spec: QuantSpec
    g_idx: Tensor | None = None
    global_scale: Tensor | None = None

    def __post_init__(self) -> None:
        if self.q.dtype != self.spec.fmt.storage:
            raise ValueError(f"{self.spec.fmt.name} codes are stored as {self.spec.fmt.storage}, got {self.q.dtype}")
        tile = self.spec.granularity.tile(self.q.shape)
        expected = tuple(size // part for size, part in zip(self.q.shape, tile, strict=True))
        if tuple(self.scale.shape) != expected:
            raise ValueError(
                f"codes of shape {tuple(self.q.shape)} per {self.spec.granularity} need scales of shape {expected}, "
                f"got {tuple(self.scale.shape)}"
            )
        if (self.zero_point is None) != self.spec.symmetric:
            raise ValueError("a symmetric tensor has no zero point and an asymmetric one has one per scale")
        if self.zero_point is not None and self.zero_point.shape != self.scale.shape:
            raise ValueError(
                f"zero points of shape {tuple(self.zero_point.shape)} do not match scales {tuple(self.scale.shape)}"
            )
        if (self.global_scale is not None) != self.spec.scales.has_global:
            raise ValueError(f"a tensor has a global scale exactly where its scales, {self.spec.scales}, are under one")
        if self.g_idx is not None:
            sizes = torch.bincount(self.g_idx.long(), minlength=expected[-1])
            if self.g_idx.shape != self.q.shape[-1:] or sizes.tolist() != [tile[-1]] * expected[-1]:
                raise ValueError(
                    f"g_idx of shape {tuple(self.g_idx.shape)} must put {tile[-1]} of the {self.q.shape[-1]} columns "
                    f"in each of {expected[-1]} groups"
                )

    @property
    def qparams(self) -> QParams:
        return QParams(self.scale, self.zero_point, self.global_scale)

    @property
    def held_bytes(self) -> int:
        """Bytes in memory here: packed codes, float32 scales, int8 zero points, int32 group of each column."""
        return weight_size(self.spec, self.q.shape, self.g_idx is not None, HELD, 32).bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits a number costs in a checkpoint: its code, its share of a 16-bit scale, of a zero point (fmt.bits) and of
        its column's group number (32 bits)."""
        return weight_size(self.spec, self.q.shape, self.g_idx is not None).bits_per_weight


def quantize(x: Tensor, spec: QuantSpec, qparams: QParams | None = None) -> QTensor:
    """Codes of x under `spec`; `qparams` uses a frozen scale (static) instead of the range of x, or of a local spec the
    frozen global scale alone.

    Shapes: x any rank of at least one; qparams the trailing dimensions of x.shape / tile, missing leading ones are 1.
    Raises: ValueError for NaN or Inf, an empty tensor, or a tile that does not divide the shape."""
    tile = _tile_of(x, spec)
    qparams = _known_or_own(x, spec, qparams)
    values = to_grid(_split(x, tile), _over_tiles(qparams), spec.fmt).reshape(x.shape)
    return QTensor(spec.fmt.encode(values), qparams.scale, qparams.zero_point, spec, global_scale=qparams.global_scale)


def dequantize(qtensor: QTensor) -> Tensor:
    """The reals that the codes stand for: scale * (q - zero_point). Shape of q, float32."""
    tile = qtensor.spec.granularity.tile(qtensor.q.shape)
    values = qtensor.spec.fmt.decode(qtensor.q)
    if qtensor.g_idx is not None:
        columns = qtensor.g_idx.long()

        def each(part: Tensor) -> Tensor:
            return part.repeat_interleave(tile[0], 0)[:, columns]

        return from_grid(values, qtensor.qparams.map(each))
    return from_grid(_split(values, tile), _over_tiles(qtensor.qparams)).reshape(values.shape)


def fake_quantize(x: Tensor, spec: QuantSpec, qparams: QParams | None = None) -> Tensor:
    """`dequantize(quantize(x, spec, qparams))` without storing the codes; shape and dtype of x."""
    tile = _tile_of(x, spec)
    qparams = _known_or_own(x, spec, qparams)
    return round_trip(_split(x, tile), _over_tiles(qparams), spec.fmt).reshape(x.shape).to(x.dtype)


def qparams_for(x: Tensor, spec: QuantSpec, global_scale: Tensor | None = None, power: Tensor | None = None) -> QParams:
    """Scale and zero point of every tile of x, from the range that `spec.observer` sees; x's own global scale where the
    format of scales has one and none is given; `power` as in `range_of_tiles`. Shape: x.shape / tile."""
    if global_scale is None:
        global_scale = global_scale_of(x, spec)
    return choose_qparams(*range_of_tiles(x, spec, global_scale, power), spec, global_scale)


def global_scale_of(x: Tensor, spec: QuantSpec) -> Tensor | None:
    """The global scale of x, (1,) float32, from its largest |value|, moved where the spec has a jitter; None where
    scales have none."""
    if spec.scales.global_of is None:
        return None
    reach = torch.linalg.vector_norm(x.detach().float(), math.inf)
    return spec.scales.global_of(moved(-reach, reach, spec.jitter)[1] if spec.jitter else reach, spec.fmt)


def range_of_tiles(
    x: Tensor, spec: QuantSpec, global_scale: Tensor | None = None, power: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The range lo..hi of every tile of x as `spec.observer` sees it, moved where the spec has a jitter and no global
    scale that moves; NaN where a tile holds one. `global_scale`: that of coded scales. `power`: (K,), diag(X^T X) of
    what enters the columns of a weight x, where the observer weighs them. Shape: x.shape / tile.

    Raises: ValueError where the observer weighs columns and no power is given."""
    lo, hi = _range_of_tiles(x, spec, global_scale, power)
    return moved(lo, hi, spec.jitter) if spec.jitter and not spec.scales.is_coded else (lo, hi)


def _range_of_tiles(
    x: Tensor, spec: QuantSpec, global_scale: Tensor | None, power: Tensor | None
) -> tuple[Tensor, Tensor]:
    tile = _tile_of(x, spec)
    tiled = _split(x, tile)
    within = tuple(range(1, tiled.ndim, 2))
    if isinstance(spec.observer, MinMax):
        return tiled.amin(within), tiled.amax(within)
    across = tuple(range(0, tiled.ndim, 2))
    tiles = tiled.permute(*across, *within).flatten(len(across)).flatten(0, -2)
    scale_shape = [tiled.shape[dim] for dim in across]
    weights = _power_of_tiles(power, spec, tile) if spec.weighs_columns else None
    lo, hi = (bound.reshape(scale_shape) for bound in tile_range(tiles, spec, None, global_scale, weights))
    return lo, hi


def _power_of_tiles(power: Tensor | None, spec: QuantSpec, tile: tuple[int, ...]) -> Tensor:
    """What an error counts in each number of the tiles along a row of tiles, (K / t1, t0 t1)."""
    if power is None:
        raise ValueError(
            f"{spec.observer} weighs errors by how loud each column's inputs are, and there are no inputs; give text, "
            f"or write {type(spec.observer)()}"
        )
    high, wide = tile
    return power.float().view(-1, 1, wide).expand(-1, high, -1).flatten(1)


def _tile_of(x: Tensor, spec: QuantSpec) -> tuple[int, ...]:
    if x.numel() == 0 or x.ndim == 0:
        raise ValueError(f"a tensor of shape {tuple(x.shape)} has nothing to quantize; give at least one row")
    return spec.granularity.tile(x.shape)


def _split(x: Tensor, tile: Sequence[int]) -> Tensor:
    """View of (d0, d1, ...) as (d0/t0, t0, d1/t1, t1, ...)."""
    return x.reshape([part for size, t in zip(x.shape, tile, strict=True) for part in (size // t, t)])


def _over_tiles(qparams: QParams) -> QParams:
    """Qparams of shape (a, b, ...) viewed as (a, 1, b, 1, ...), to broadcast over a `_split` tensor."""
    return qparams.map(lambda t: t.reshape([part for size in t.shape for part in (size, 1)]))


def _known_or_own(x: Tensor, spec: QuantSpec, known: QParams | None) -> QParams:
    """Frozen qparams with as many dimensions as x; x's own where nothing is frozen, or a global scale alone."""
    if known is None or spec.local:
        return qparams_for(x, spec, None if known is None else known.global_scale)
    return known.map(lambda t: t.reshape((1,) * (x.ndim - t.ndim) + tuple(t.shape)))
