"""The loss of GPTQ over bits, group size, order and damping at once: every configuration in one batched sweep.

A layer's rows are quantized independently of one another, so rows that are evenly spread stand for all; how many are
taken depends on how much fits. A loss is given over that of rounding to nearest, on the same rows, at the same bits and
group size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.methods.options import Gptq
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.scheme.scheme import Scheme

Order = Literal["weight", "group"] | None
ORDERS: tuple[Order, ...] = (None, "weight", "group")
MOST_NUMBERS = 6_000_000  # weights in all configurations together


@dataclass(frozen=True)
class MapCell:
    """One configuration; `loss` as a share of the output's power, `rtn_loss` the same of rounding to nearest."""

    bits: int
    granularity: str
    actorder: Order
    damp: float
    loss: float
    rtn_loss: float
    bits_per_weight: float

    @property
    def over_rtn(self) -> float:
        return self.loss / self.rtn_loss if self.rtn_loss else 1.0


@dataclass(frozen=True)
class OrderMap:
    """`rows` of the layer's `all_rows` were quantized."""

    cells: tuple[MapCell, ...]
    rows: int
    all_rows: int

    def best(self, bits: int) -> MapCell:
        """The least loss at these bits."""
        return min((cell for cell in self.cells if cell.bits == bits), key=lambda cell: cell.loss)


def order_map(
    weight: Tensor, hessian: Tensor, bits: Sequence[int], granularities: Sequence[str], damps: Sequence[float]
) -> OrderMap:
    """Every bits x granularity (`group64`, `channel`) x order x damping. Shapes: weight (O, K), hessian (K, K).

    Raises: ValueError as `gptq_quantize`."""
    asked = [(b, grain, order, damp) for b in bits for grain in granularities for order in ORDERS for damp in damps]
    most = max(1, min(len(weight), MOST_NUMBERS // (len(asked) * weight.shape[1])))
    some = weight.detach().float()[torch.arange(most, device=weight.device) * len(weight) // most]
    hessian = hessian.float()
    specs = {}
    for b in bits:
        for grain in granularities:
            spec = Scheme.parse(f"w:int{b}/{grain}").weights
            assert spec is not None
            specs[b, grain] = spec
    problems = [GptqProblem(some, specs[b, grain], Gptq(order, damp)) for b, grain, order, damp in asked]
    solved = gptq_quantize_many(problems, hessian)
    rounded = [quantize(some, spec) for spec in specs.values()]
    losses = _losses(some, [dequantize(q) for q in (*solved, *rounded)], hessian)
    power = float(((some @ hessian) * some).sum(dtype=torch.float64))
    rtn = dict(zip(specs, losses[len(solved) :], strict=True))
    cells = [
        MapCell(b, grain, order, damp, loss / power, rtn[b, grain] / power, q.bits_per_weight)
        for (b, grain, order, damp), loss, q in zip(asked, losses, solved, strict=False)
    ]
    return OrderMap(tuple(cells), len(some), len(weight))


def _losses(weight: Tensor, hats: Sequence[Tensor], hessian: Tensor) -> list[float]:
    """sum over rows of e H e^T of each, in one product."""
    errors = torch.cat([weight - hat for hat in hats])
    rows = ((errors @ hessian) * errors).sum(1, dtype=torch.float64)
    found: list[float] = rows.view(len(hats), -1).sum(1).tolist()
    return found
