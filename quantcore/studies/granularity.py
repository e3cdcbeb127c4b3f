"""Who shares a scale, and how it is stored: one weight quantized at every granularity, with what each costs and keeps.

study = granularity_study(weight, x, Scheme.parse("w:int4/group128"))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.numbers.distance import Giant, giant_of, tensor_error, token_sqnr_db
from quantcore.numbers.granularity import Granularity, PerBlock, PerChannel, PerGroup, PerTensor
from quantcore.numbers.pooling import Pooled, pool_extreme
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.numbers.scales import FLOAT, SCALES
from quantcore.numbers.spec import QuantSpec

GROUP_SIZES = (16, 32, 64, 128, 256, 512, 1024)
BLOCK_SIZES = (32, 64, 128)
MOST_BORDERS = 40  # tiles along a side whose borders can be drawn
CLOSE_UP = 24  # rows around the worst tile, where a tile is one row high: then channels and groups are told apart


@dataclass(frozen=True)
class GranularityRow:
    """One line of the table, weights quantized alone: `stored` says how its scales are (`numbers.scales`),
    `output_sqnr_db` is of x @ W^T over all of the text's activations, `token_sqnr_db` of its median token."""

    granularity: str
    stored: str
    scale_shape: tuple[int, ...]
    scales: int
    bits_per_weight: float
    weight_sqnr_db: float
    output_sqnr_db: float
    token_sqnr_db: float

    @property
    def name(self) -> str:
        """As schemes write it: group32, or group32/e8m0."""
        return self.granularity if self.stored == FLOAT.name else f"{self.granularity}/{self.stored}"


@dataclass(frozen=True, eq=False)
class GranularityStudy:
    """The chosen granularity in full, all others as rows: with float scales first, then groups with coded ones.

    shape            (O, K) of the weight
    shown            its rows that the picture of tiles shows: all, or CLOSE_UP of them
    weight, error    W of those rows, and |W_hat - W| of all, pooled for the screen
    scale            as the QTensor holds it, (O / tile rows, K / tile columns)
    tile             rows and columns of one tile
    worst_tile       (row, column) of the tile with the largest squared error per weight
    giant            the token that holds most of the output's power
    """

    shape: tuple[int, int]
    shown: range
    weight: Pooled
    error: Pooled
    scale: Tensor
    tile: tuple[int, int]
    worst_tile: tuple[int, int]
    giant: Giant
    rows: tuple[GranularityRow, ...]
    chosen: GranularityRow


def granularity_study(
    weight: Tensor, x: Tensor, spec: QuantSpec, rows: tuple[GranularityRow, ...] | None = None
) -> GranularityStudy:
    """Quantize `weight` (O, K) under `spec`, and with each other granularity in its place; x (N, K) are real inputs.

    rows     of `every_granularity`, where they are known already: they do not depend on the granularity of `spec`
    Raises: ValueError if the tile does not divide the weight."""
    weight = weight.to(x.device)
    qtensor = quantize(weight, spec)
    error = dequantize(qtensor) - weight
    tile_rows, tile_cols = spec.granularity.tile(weight.shape)
    tiles = (weight.shape[0] // tile_rows, tile_rows, weight.shape[1] // tile_cols, tile_cols)
    squared = error.square().reshape(tiles).mean((1, 3))
    worst = divmod(int(squared.argmax()), squared.shape[1])
    shown = shown_rows(len(weight), tile_rows, worst[0])
    rows = every_granularity(weight, x, spec) if rows is None else rows
    known = {(row.granularity, row.stored): row for row in rows}
    return GranularityStudy(
        shape=(weight.shape[0], weight.shape[1]),
        shown=shown,
        weight=pool_extreme(weight[shown.start : shown.stop]),
        error=pool_extreme(error.abs_()),
        scale=qtensor.scale.cpu(),
        tile=(tile_rows, tile_cols),
        worst_tile=worst,
        giant=giant_of(F.linear(x, weight)),
        rows=rows,
        chosen=known.get((str(spec.granularity), str(spec.scales))) or _row(weight, x, spec),
    )


def shown_rows(out_features: int, tile_rows: int, row: int) -> range:
    """Rows of the weight in which its tiles can be told apart: of many flat tiles a few around the tile in `row`."""
    if tile_rows > 1 or out_features // MOST_BORDERS <= 1:
        return range(out_features)
    first = max(0, min(row - CLOSE_UP // 2, out_features - CLOSE_UP))
    return range(first, first + CLOSE_UP)


def every_granularity(weight: Tensor, x: Tensor, spec: QuantSpec) -> tuple[GranularityRow, ...]:
    """The table: `spec` with every granularity that divides the weight (O, K) in place of its own, its scales floats;
    where it is symmetric, groups with coded scales too. x (N, K)."""
    weight = weight.to(x.device)
    choices = granularities(weight.shape[0], weight.shape[1])
    own = [replace(spec, granularity=choice, scales=FLOAT) for choice in choices]
    groups = [choice for choice in choices if isinstance(choice, PerGroup)]
    coded = [one for one in SCALES.values() if one.is_coded and spec.symmetric]
    own += [replace(spec, granularity=group, scales=one) for one in coded for group in groups]
    return tuple(_row(weight, x, one) for one in own)


def granularities(out_features: int, in_features: int) -> list[Granularity]:
    """Every granularity that divides the shape, from the coarsest scale to the finest groups."""
    blocks: list[Granularity] = [
        PerBlock(side, side) for side in reversed(BLOCK_SIZES) if out_features % side == in_features % side == 0
    ]
    groups: list[Granularity] = [PerGroup(size) for size in reversed(GROUP_SIZES) if in_features % size == 0]
    return [PerTensor(), PerChannel(), *blocks, *groups]


def _row(weight: Tensor, x: Tensor, spec: QuantSpec) -> GranularityRow:
    qtensor = quantize(weight, spec)
    weight_hat = dequantize(qtensor)
    with torch.inference_mode():
        y, y_hat = F.linear(x, weight), F.linear(x, weight_hat)
    return GranularityRow(
        granularity=str(spec.granularity),
        stored=str(spec.scales),
        scale_shape=tuple(qtensor.scale.shape),
        scales=qtensor.scale.numel(),
        bits_per_weight=qtensor.bits_per_weight,
        weight_sqnr_db=tensor_error(weight, weight_hat).sqnr_db,
        output_sqnr_db=tensor_error(y, y_hat).sqnr_db,
        token_sqnr_db=float(token_sqnr_db(y, y_hat).median()),
    )
