"""A few columns of a real layer under GPTQ: eight in an order made by hand, or two whose weights can be drawn.

    spread(hessian)                              eight columns, from the loudest to the quietest, in the layer's order
    by_hand(weight, hessian, columns, order,     GPTQ's loss over RTN's when they are visited in this order
            spec, options)
    real_pair(weight, hessian, spec)             the two columns that go together most, and the row where GPTQ gains
                                                 most over rounding to nearest

All other columns are taken to stay exact, as in `gptq_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.methods.options import Gptq
from quantcore.numbers.qtensor import quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.studies.gptq_steps import tile_rows, tile_steps
from quantcore.studies.gptq_toy import toy

COUNT = 8
ROWS = 64  # rows that are tried for the pair
ALIKE = 2.0  # columns of a pair are at most so many times louder than each other, or the picture would be a needle


@dataclass(frozen=True)
class RealPair:
    """Two columns and a row of a layer: the weights in steps of their scale, around the code of the first; `moved` is
    what was taken away to bring them near 0, whole steps; correlation and scale as `gptq_toy.toy_hessian` has them."""

    row: int
    columns: tuple[int, int]
    weights: tuple[float, float]
    moved: tuple[int, int]
    correlation: float
    scale: float


def spread(hessian: Tensor, count: int = COUNT) -> tuple[int, ...]:
    """`count` columns at even ranks of diag(H), the loudest and the quietest among them, in the layer's order."""
    ranked = hessian.diagonal().argsort(descending=True, stable=True)
    count = min(count, len(ranked))
    places = [round(i * (len(ranked) - 1) / max(1, count - 1)) for i in range(count)]
    return tuple(sorted(int(ranked[place]) for place in places))


def by_hand(
    weight: Tensor, hessian: Tensor, columns: Sequence[int], order: Sequence[int], spec: QuantSpec, options: Gptq
) -> float:
    """GPTQ's loss over that of rounding to nearest, when `columns` are visited in `order` (places in `columns`).

    Raises: ValueError where `order` is no order of them."""
    if sorted(order) != list(range(len(columns))):
        raise ValueError(f"{list(order)} is no order of {len(columns)} columns; name each place from 0 on once")
    visited = [columns[place] for place in order]
    steps = tile_steps(weight, hessian, tile_rows(len(weight)), visited, spec, options)
    rtn = float(steps.rtn_loss[-1])
    return float(steps.loss[-1]) / rtn if rtn else 1.0


def real_pair(weight: Tensor, hessian: Tensor, spec: QuantSpec) -> RealPair:
    """Two columns and a row as real as they come. Shapes: weight (O, K), hessian (K, K)."""
    diagonal = hessian.diagonal().double().clamp_min(torch.finfo(torch.float32).tiny)
    correlation = hessian.double() / (diagonal[:, None] * diagonal).sqrt()
    correlation.fill_diagonal_(0)
    louder = (diagonal[:, None] / diagonal).sqrt()
    correlation *= (louder <= ALIKE) & (louder >= 1 / ALIKE)
    first, second = divmod(int(correlation.abs().argmax()), len(hessian))
    r = max(-0.99, min(0.99, float(correlation[first, second])))
    scale = float((diagonal[first] / diagonal[second]).sqrt())
    rows = tile_rows(len(weight)) if len(weight) <= ROWS else tuple(i * len(weight) // ROWS for i in range(ROWS))
    some = weight.detach().float()[list(rows)]
    steps = quantize(some, spec).scale.expand(len(rows), -1)
    group = some.shape[1] // steps.shape[1]
    at = some[:, [first, second]] / torch.stack([steps[:, first // group], steps[:, second // group]], 1)
    whole = at.floor()
    parts = (at - whole).tolist()

    def gain(place: int) -> float:
        found = toy(parts[place][0], parts[place][1], r, scale)
        return found.points[0].loss - min(found.points[1].loss, found.points[2].loss)

    best = max(range(len(rows)), key=gain)
    moved = int(whole[best, 0]), int(whole[best, 1])
    return RealPair(rows[best], (first, second), (parts[best][0], parts[best][1]), moved, r, scale)
