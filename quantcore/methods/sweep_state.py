"""What a GPTQ sweep is asked, and what it carries from column to column."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantcore.methods.options import Gptq
from quantcore.numbers.affine import QParams
from quantcore.numbers.spec import QuantSpec


@dataclass(frozen=True)
class GptqProblem:
    """One weight, (O, K), and what is wanted of it; `global_scale` under which its scales are coded, None: its own."""

    weight: Tensor
    spec: QuantSpec
    options: Gptq = Gptq()
    global_scale: Tensor | None = None


@dataclass
class SweepState:
    """What a sweep reads and what it writes; R rows of all parts together.

    w           (K, C): the columns of every different weight
    source      (R,) int32: a row's column of w
    scale       all parts' scales behind one another, each (groups, rows); zero_point alike, None where no part has any
    first, stride   (R,) int32: a row's scale of group g is scale[first + g * stride]
    group       (parts, K) int32: the group of the column at each step, as Rows.group;  part  (R,) int32
    run         so many steps share a group, in every part, from each step that is a multiple of it; 0: all do
    lo, hi      (R,) the least and the greatest value of a row's codes
    adjusted    w' of each step, (K, R); (0, R) where nobody reads it afterwards
    error       w - w_hat of each step, (K, R); (0, R) where nobody reads it and `SplitProducts` keeps its halves
    values      (K, R) the codes' values: int8, float32 for float formats"""

    w: Tensor
    source: Tensor
    scale: Tensor
    zero_point: Tensor | None
    first: Tensor
    stride: Tensor
    group: Tensor
    part: Tensor
    run: int
    lo: Tensor
    hi: Tensor
    adjusted: Tensor
    error: Tensor
    values: Tensor

    def columns(self, start: int, stop: int) -> Tensor:
        """w of every row, (stop - start, R)."""
        here = self.w[start:stop]
        return here if len(self.source) == here.shape[1] else here.index_select(1, self.source)

    def qparams(self, start: int, stop: int) -> QParams:
        """Scale and zero point of every row, (stop - start, R)."""
        group = self.group[:, start:stop].T
        at = self.first + self.stride * (group if len(self.group) == 1 else group.index_select(1, self.part))
        return QParams(self.scale[at], None if self.zero_point is None else self.zero_point[at])


@dataclass
class Trace:
    """What the sweep did to a few rows, in visiting order; give one to `gptq_quantize` and read it afterwards.

    rows        which rows of the weight to note
    order       (K,), the column visited at each step
    original, adjusted, quantized   (len(rows), K): w_j, w'_j and w_hat_j at each step
    loss        (K,), e H e^T summed over all rows, up to and with each step; H is the damped one
    """

    rows: tuple[int, ...] = (0,)
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    original: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    adjusted: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    quantized: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    loss: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Order:
    """The columns in visiting order, (K,), and where each column stands in it; `sorted` False: as they come."""

    columns: Tensor
    places: Tensor
    sorted: bool

    @staticmethod
    def of(hessian: Tensor, by_diagonal: bool) -> Order:
        as_they_come = torch.arange(len(hessian), device=hessian.device)
        if not by_diagonal:
            return Order(as_they_come, as_they_come, False)
        columns = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        return Order(columns, torch.empty_like(columns).scatter_(0, columns, as_they_come), True)
