"""Which values a format has on a real tensor, how many numbers fall on each, and what becomes of one number.

grid = fit(x, format_named("int4"), symmetric=True)         scale and zero point over the tensor's min-max range
use = code_use(x, grid)                                     counts per code, unused codes, clipped share, SQNR
snap(0.437, grid)                                           q, x_hat, error of one number
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.numbers.affine import QParams, choose_qparams, from_grid, to_grid
from quantcore.numbers.distance import tensor_error
from quantcore.numbers.formats import Format
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.spec import QuantSpec


@dataclass(frozen=True)
class Grid:
    """One format at one scale: its levels are scale * (code - zero_point); zero_point None is symmetric."""

    fmt: Format
    scale: float
    zero_point: int | None

    def qparams_on(self, device: torch.device | str) -> QParams:
        """Scale and zero point, each (1,), beside the numbers they are for."""
        zero_point = None if self.zero_point is None else torch.tensor([float(self.zero_point)], device=device)
        return QParams(torch.tensor([self.scale], device=device), zero_point)

    @property
    def reach(self) -> tuple[float, float]:
        """From where to where values are rounded, not clipped: half a step beyond the last level of either side."""
        levels = self.levels()
        return float(levels[0] - (levels[1] - levels[0]) / 2), float(levels[-1] + (levels[-1] - levels[-2]) / 2)

    @property
    def label(self) -> str:
        return self.fmt.name if self.zero_point is None else f"{self.fmt.name} asym"

    def levels(self) -> Tensor:
        """The real value of every code, ascending. Shape (levels,)."""
        return from_grid(self.fmt.grid(), self.qparams_on("cpu"))


@dataclass(frozen=True)
class CodeUse:
    """How a tensor's values fall on a grid: counts per level (ascending), codes that no value took, shares, SQNR."""

    grid: Grid
    counts: tuple[int, ...]
    unused: int
    clipped_share: float
    sqnr_db: float


@dataclass(frozen=True)
class Snap:
    """What becomes of one number: steps = x / scale, q its code value, x_hat = scale * (q - zero_point)."""

    x: float
    steps: float
    q: float
    x_hat: float
    error: float
    clipped: bool


def fit(x: Tensor, fmt: Format, symmetric: bool) -> Grid:
    """The grid whose ends reach the tensor's smallest and largest value (min-max, per tensor)."""
    scale, zero_point, _ = choose_qparams(x.min(), x.max(), QuantSpec(fmt, PerTensor(), symmetric))
    return Grid(fmt, float(scale), None if zero_point is None else int(zero_point))


def code_use(x: Tensor, grid: Grid) -> CodeUse:
    """Count the values of x on each level of the grid."""
    flat, qparams = x.flatten().float(), grid.qparams_on(x.device)
    values = to_grid(flat, qparams, grid.fmt)
    codes = grid.fmt.grid().to(x.device)
    counts = torch.bincount(torch.searchsorted(codes, values, out_int32=True), minlength=len(codes)).tolist()
    lo, hi = grid.reach
    clipped = torch.count_nonzero(flat < lo) + torch.count_nonzero(flat > hi)
    return CodeUse(
        grid=grid,
        counts=tuple(counts),
        unused=counts.count(0),
        clipped_share=int(clipped) / x.numel(),
        sqnr_db=tensor_error(flat, from_grid(values, qparams)).sqnr_db,
    )


def snap(x: float, grid: Grid) -> Snap:
    """Quantize one number, in the engine's own arithmetic."""
    value = torch.tensor([x])
    qparams = grid.qparams_on("cpu")
    q = to_grid(value, qparams, grid.fmt)
    x_hat = float(from_grid(q, qparams))
    lo, hi = grid.reach
    return Snap(
        float(value), float(value / grid.scale), float(q), x_hat, x_hat - float(value), not lo <= float(value) <= hi
    )


def relative_error(x: Tensor, grid: Grid) -> Tensor:
    """|x_hat - x| / |x| of each value; 0 for a value of 0. Shape and device as x, float32."""
    flat, qparams = x.float(), grid.qparams_on(x.device)
    error = (from_grid(to_grid(flat, qparams, grid.fmt), qparams) - flat).abs()
    return torch.where(flat == 0, torch.zeros_like(flat), error / flat.abs())
