"""The loss of GPTQ over bits, group size, order and damping at once: every configuration in one batched sweep.

A layer's rows are quantized independently of one another, so some can stand for all where all take too long. Few rows
hold most of a loss, so they are drawn in proportion to what rounding to nearest loses on them, which is known of every
row: r = loss of rounding, T = its sum over all rows,

    share = loss(GPTQ) / T = mean over n drawn rows of loss_i / r_i          unbiased: E = sum (r_i / T) loss_i / r_i

with the interval of that mean over the drawn rows. A row that is drawn twice counts twice and is solved once. Source:
Hansen & Hurwitz 1943, On the theory of sampling from finite populations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.measure.statistics import Interval, mean_interval
from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.methods.options import Actorder, Gptq
from quantcore.numbers.bits import weight_size
from quantcore.numbers.products import product
from quantcore.numbers.qtensor import dequantize, fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.studies.gptq_order import ORDERS

FEWEST_ROWS = 48  # drawn at least, however wide they are
MOST_NUMBERS = 6_000_000  # weights in all configurations together that a CPU solves in about a second
MOST_ON_GPU = 200_000_000  # likewise on a GPU, where the sweep takes nine bytes for each
TILE = {"cpu": 1, "cuda": 64}  # rows; for whole tiles the sweep's kernel is compiled already, else that takes 10 s


@dataclass(frozen=True)
class MapCell:
    """One configuration; `loss` as a share of the output's power, `rtn_loss` the same of rounding to nearest. `share`:
    the loss over that of rounding, with its interval where rows were drawn; else the interval is the value."""

    bits: int
    granularity: str
    actorder: Actorder
    damp: float
    loss: float
    rtn_loss: float
    bits_per_weight: float
    share: Interval

    @property
    def over_rtn(self) -> float:
        return self.share.value


@dataclass(frozen=True)
class OrderMap:
    """`rows` of the layer's `all_rows` were quantized in each configuration, drawn where they are not all."""

    cells: tuple[MapCell, ...]
    rows: int
    all_rows: int

    def best(self, bits: int) -> MapCell:
        """The least loss at these bits."""
        return min((cell for cell in self.cells if cell.bits == bits), key=lambda cell: cell.loss)

    def as_good(self, bits: int) -> tuple[MapCell, ...]:
        """The others at these bits whose loss may be as small, for all that the drawn rows tell."""
        best = self.best(bits)
        most = best.share.hi * best.rtn_loss
        others = (cell for cell in self.cells if cell.bits == bits and cell is not best)
        return tuple(cell for cell in others if cell.share.lo * cell.rtn_loss <= most and self.rows < self.all_rows)


def order_map(
    weight: Tensor, hessian: Tensor, bits: Sequence[int], granularities: Sequence[str], damps: Sequence[float]
) -> OrderMap:
    """Every bits x granularity (`group64`, `channel`) x order x damping. Shapes: weight (O, K), hessian (K, K).

    Raises: ValueError as `gptq_quantize`."""
    asked = [(b, grain, order, damp) for b in bits for grain in granularities for order in ORDERS for damp in damps]
    weight, hessian = weight.detach().float(), hessian.float()
    fits = (MOST_ON_GPU if weight.is_cuda else MOST_NUMBERS) // (len(asked) * weight.shape[1])
    count = min(len(weight), max(FEWEST_ROWS, fits))
    specs = {(b, grain): weights_spec(f"w:int{b}/{grain}") for b in bits for grain in granularities}
    errors = (weight - fake_quantize(weight, spec) for spec in specs.values())
    *rtn_losses, powers = torch.stack([row_losses(one, hessian) for one in (*errors, weight)]).cpu()
    rtn, power = dict(zip(specs, rtn_losses, strict=True)), float(powers.sum())
    drawn = {key: _drawn(losses, count, TILE[weight.device.type]) for key, losses in rtn.items()}
    some = {key: weight[rows.to(weight.device)] for key, (rows, _) in drawn.items()}
    problems = [GptqProblem(some[b, grain], specs[b, grain], Gptq(order, damp)) for b, grain, order, damp in asked]
    solved = gptq_quantize_many(problems, hessian)
    left = [row_losses(problem.weight - dequantize(q), hessian) for problem, q in zip(problems, solved, strict=True)]
    losses = torch.split(torch.cat(left).cpu(), [len(one) for one in left])  # read once: a GPU is waited for no more
    cells = []
    for (b, grain, order, damp), q, loss in zip(asked, solved, losses, strict=True):
        known, (rows, times) = rtn[b, grain], drawn[b, grain]
        share = _share(loss, known[rows], times, float(known.sum()))
        whole = float(known.sum()) / power
        bits_per_weight = weight_size(specs[b, grain], tuple(weight.shape), q.g_idx is not None).bits_per_weight
        cells.append(MapCell(b, grain, order, damp, share.value * whole, whole, bits_per_weight, share))
    return OrderMap(tuple(cells), count, len(weight))


def weights_spec(text: str) -> QuantSpec:
    spec = Scheme.parse(text).weights
    assert spec is not None
    return spec


def row_losses(error: Tensor, hessian: Tensor) -> Tensor:
    """e H e^T of each row, (O,), float64."""
    return (product(error, hessian) * error).sum(1).double()


def _drawn(losses: Tensor, count: int, tile: int) -> tuple[Tensor, Tensor]:
    """Rows and how often each was drawn: all once where `count` is all, else `count` draws in proportion to losses.
    Others that were never drawn fill them up to whole tiles."""
    if count == len(losses) or float(losses.sum()) == 0:
        return torch.arange(len(losses)), torch.ones(len(losses))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(losses, count, replacement=True, generator=generator)
    times = torch.bincount(drawn, minlength=len(losses))
    ever, never = times.nonzero()[:, 0], (times == 0).nonzero()[:, 0]
    rows = torch.cat([ever, never[: -len(ever) % tile]]).sort().values
    return rows, times[rows]


def _share(losses: Tensor, rtn: Tensor, times: Tensor, rtn_of_all: float) -> Interval:
    """The loss over that of rounding, on all rows."""
    if rtn_of_all == 0:
        return Interval(1.0, 1.0, 1.0)
    if bool((times == 1).all()) and float(rtn.sum()) == rtn_of_all:
        value = float(losses.sum()) / rtn_of_all
        return Interval(value, value, value)
    each = (losses / rtn).repeat_interleave(times.long())
    return mean_interval(each.numpy())
