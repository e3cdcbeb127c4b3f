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


@dataclass(frozen=True)
class Grid:
    """One format at one scale: its levels are scale * (code - zero_point); zero_point None is symmetric."""

    fmt: Format
    scale: float
    zero_point: int | None

    @property
    def qparams(self) -> QParams:
        zero_point = None if self.zero_point is None else torch.tensor([float(self.zero_point)])
        return QParams(torch.tensor([self.scale]), zero_point)

    @property
    def label(self) -> str:
        return self.fmt.name if self.zero_point is None else f"{self.fmt.name} asym"

    def levels(self) -> Tensor:
        """The real value of every code, ascending. Shape (levels,)."""
        return from_grid(self.fmt.grid(), self.qparams)


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
    scale, zero_point = choose_qparams(x.min(), x.max(), fmt, symmetric)
    return Grid(fmt, float(scale), None if zero_point is None else int(zero_point))


def code_use(x: Tensor, grid: Grid) -> CodeUse:
    """Count the values of x on each level of the grid. A value is clipped if it lies beyond the last level by more than
    half a step there. Source of SQNR: quantcore.measure.evaluate."""
    flat = x.flatten().float().cpu()
    values = to_grid(flat, grid.qparams, grid.fmt)
    codes = grid.fmt.grid()
    counts = torch.bincount(torch.searchsorted(codes, values), minlength=len(codes))
    levels = grid.levels()
    below, above = levels[0] - (levels[1] - levels[0]) / 2, levels[-1] + (levels[-1] - levels[-2]) / 2
    clipped = ((flat < below) | (flat > above)).double().mean()
    return CodeUse(
        grid=grid,
        counts=tuple(counts.tolist()),
        unused=int((counts == 0).sum()),
        clipped_share=float(clipped),
        sqnr_db=tensor_error(flat, from_grid(values, grid.qparams)).sqnr_db,
    )


def snap(x: float, grid: Grid) -> Snap:
    """Quantize one number, in the engine's own arithmetic."""
    value = torch.tensor([x])
    q = to_grid(value, grid.qparams, grid.fmt)
    x_hat = float(from_grid(q, grid.qparams))
    levels = grid.levels()
    half_lo, half_hi = (levels[1] - levels[0]) / 2, (levels[-1] - levels[-2]) / 2
    clipped = bool((value < levels[0] - half_lo) | (value > levels[-1] + half_hi))
    return Snap(float(value), float(value / grid.scale), float(q), x_hat, x_hat - float(value), clipped)


def relative_error(x: Tensor, grid: Grid) -> Tensor:
    """|x_hat - x| / |x| of each value; 0 for a value of 0. Shape as x, float32 on the CPU."""
    flat = x.float().cpu()
    error = (from_grid(to_grid(flat, grid.qparams, grid.fmt), grid.qparams) - flat).abs()
    return torch.where(flat == 0, torch.zeros_like(flat), error / flat.abs())
