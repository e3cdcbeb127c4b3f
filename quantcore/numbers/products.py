"""Products of float32 matrices on a GPU's tensor cores.

Each factor is the sum of two bf16 numbers, a = a1 + a2, exact to 16 bits, and a b = a1 b1 + a1 b2 + a2 b1, summed in
float32: three products at the rate of bf16 where one of float32 takes ten times as long. The relative error is about
1e-5 of |a| |b|.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PANEL = 512  # rows of `solved`


class Halves(NamedTuple):
    """A float32 matrix as the sum of two of bf16."""

    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Halves:
        high = x.bfloat16()
        return cls(high, (x - high.float()).bfloat16())

    @property
    def T(self) -> Halves:
        return Halves(self.high.T, self.low.T)

    def columns(self, start: int, stop: int | None = None) -> Halves:
        return Halves(self.high[:, start:stop], self.low[:, start:stop])


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of float32 matrices, in float32. Shapes: (M, K), (K, N). On a CPU the plain product."""
    return product_of_halves(Halves.of(a), Halves.of(b)) if a.is_cuda else a @ b


def product_of_halves(a: Halves, b: Halves) -> Tensor:
    """a @ b on a GPU, for a factor that is used more than once."""
    found = torch.mm(a.high, b.high, out_dtype=torch.float32)
    found = torch.addmm(found, a.high, b.low, out_dtype=torch.float32)
    return torch.addmm(found, a.low, b.high, out_dtype=torch.float32)


def solved(lower: Tensor, right: Tensor) -> Tensor:
    """(L^T L)^-1 right, for L lower triangular; what is above its diagonal may be anything. Shapes: (K, K), (K, N).

    By panels of rows: what the rows that are known do to a panel is a product, on a GPU in float32 `product`'s. Only
    the panels' own triangles are inverted, PANEL / K of the work."""
    x, width = right.clone(), len(lower)
    multiply = product if x.dtype == torch.float32 else torch.mm
    inverses = {
        start: _inverse(lower[start : start + PANEL, start : start + PANEL]) for start in range(0, width, PANEL)
    }
    for start in reversed(range(0, width, PANEL)):  # L^T y = right
        stop = min(start + PANEL, width)
        if stop < width:
            x[start:stop] -= multiply(lower[stop:, start:stop].T, x[stop:])
        x[start:stop] = inverses[start].T @ x[start:stop]
    for start in range(0, width, PANEL):  # L x = y
        stop = min(start + PANEL, width)
        if start:
            x[start:stop] -= multiply(lower[start:stop, :start], x[:start])
        x[start:stop] = inverses[start] @ x[start:stop]
    return x


def _inverse(lower: Tensor) -> Tensor:
    one = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower, one, upper=False)
    return inverse


class Growing:
    """z[:, :stop] U[:stop, stop:], kept up while `stop` moves to the right: what the columns that have been visited do
    to those that have not. Shapes: z (O, K), U (K, K). Each step reads and writes the sum once."""

    def __init__(self, z: Tensor, u: Tensor) -> None:
        self._factors = [(z, u)]
        if z.is_cuda:
            (high, low), (over, under) = Halves.of(z), Halves.of(u)
            self._factors = [(high, over), (high, under), (low, over)]
        self._sum = torch.zeros_like(z)

    def behind(self, start: int, stop: int) -> Tensor:
        """The sum for the columns from `stop` on, (O, K - stop), float32; `start`: where the call before stopped."""
        left = self._sum[:, stop - start :]
        a = torch.cat([one[:, start:stop] for one, _ in self._factors], 1)
        b = torch.cat([one[start:stop, stop:] for _, one in self._factors])
        if left.shape[1]:
            halves = a.dtype == torch.bfloat16
            left = torch.addmm(left, a, b, out_dtype=torch.float32) if halves else torch.addmm(left, a, b)
        self._sum = left
        return self._sum
