"""GPTQ with two weights: few enough to draw the loss, the lattice, and every way to a lattice point.

    H = [[s^2, r s], [r s, 1]]       r: correlation of the two inputs, s: how much larger the first one is
    loss(q) = e H e^T, e = w - q     ellipses around w; q are the lattice points, one step apart

Rounding to nearest takes the nearest point by eye. GPTQ rounds one weight and moves the other along the valley; which
weight goes first decides where it ends. The best point is found by search. The engine's own GPTQ is asked: a second row
holds 7.5, so that the int4 scale of the tensor is 1, and changes nothing else, for rows know nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.methods.gptq import gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.numbers.qtensor import dequantize, fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme

DAMP = 1e-9
SAMPLES = 1000
REACH = 3.0  # steps around 0 that a weight of the sample may take
WAYS = ("RTN", "GPTQ, 1 first", "GPTQ, 2 first", "best")


@dataclass(frozen=True)
class ToyPoint:
    """A lattice point and its loss; of GPTQ, `moved`: the first weight rounded, the second where it stands then."""

    way: str
    point: tuple[float, float]
    loss: float
    moved: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Toy:
    """`mean_loss` of each way over SAMPLES random weights, over that of RTN; `first` the weight that diag(H) puts first
    (0 or 1)."""

    weight: tuple[float, float]
    hessian: Tensor
    first: int
    points: tuple[ToyPoint, ...]
    mean_loss: dict[str, float]

    def point(self, way: str) -> ToyPoint:
        return next(one for one in self.points if one.way == way)


def toy_hessian(correlation: float, scale: float) -> Tensor:
    """(2, 2), float64. Raises: ValueError unless -1 < correlation < 1 and scale > 0."""
    if not (-1 < correlation < 1 and scale > 0):
        raise ValueError(
            f"correlation={correlation:g} must lie between -1 and 1 and scale={scale:g} above 0; try 0.9 and 1"
        )
    return torch.tensor([[scale * scale, correlation * scale], [correlation * scale, 1.0]], dtype=torch.float64)


def toy(w1: float, w2: float, correlation: float, scale: float) -> Toy:
    """The four ways for the weights (w1, w2), in steps of the lattice. Raises: ValueError for |w| above REACH."""
    if max(abs(w1), abs(w2)) > REACH:
        raise ValueError(f"the weights {w1:g} and {w2:g} must lie within {REACH:g} steps of 0")
    hessian = toy_hessian(correlation, scale)
    weight = torch.tensor([[w1, w2]], dtype=torch.float64)
    found = {way: _solve(way, weight, hessian) for way in WAYS}
    points = [
        ToyPoint(way, _pair(q[0]), float(_loss(weight, q, hessian)[0]), _moved(way, weight, q, hessian))
        for way, q in found.items()
    ]
    sample = (2 * torch.rand(SAMPLES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1) * REACH
    means = {way: float(_loss(sample, _solve(way, sample, hessian), hessian).mean()) for way in WAYS}
    return Toy(
        (w1, w2),
        hessian,
        int(hessian.diagonal().argmax()),
        tuple(points),
        {way: mean / means["RTN"] for way, mean in means.items()},
    )


def _solve(way: str, weight: Tensor, hessian: Tensor) -> Tensor:
    """The lattice points of weights (N, 2), (N, 2)."""
    if way == "best":
        return _search(weight, hessian)
    pinned = torch.cat([weight, torch.tensor([[7.5, 0.0]], dtype=weight.dtype)])
    if way == "RTN":
        return fake_quantize(pinned, _int4())[:-1]
    turn = [1, 0] if way.endswith("2 first") else [0, 1]
    q = dequantize(gptq_quantize(pinned[:, turn], hessian[turn][:, turn], _int4(), Gptq(damp=DAMP)))
    return q[:-1, turn].double()


def _search(weight: Tensor, hessian: Tensor) -> Tensor:
    """The point of least loss among all codes."""
    codes = torch.arange(-8, 8, dtype=weight.dtype)
    lattice = torch.cartesian_prod(codes, codes)
    error = weight[:, None] - lattice
    return lattice[((error @ hessian) * error).sum(-1).argmin(1)]


def _moved(way: str, weight: Tensor, q: Tensor, hessian: Tensor) -> tuple[float, float] | None:
    """Where the second weight stands when its turn comes: the lowest loss with the first one rounded."""
    if not way.startswith("GPTQ"):
        return None
    first = 0 if way.endswith("1 first") else 1
    second = 1 - first
    stop = [0.0, 0.0]
    stop[first] = float(q[0, first])
    push = (weight[0, first] - q[0, first]) * hessian[first, second] / hessian[second, second]
    stop[second] = float(weight[0, second] + push)
    return stop[0], stop[1]


def _loss(weight: Tensor, q: Tensor, hessian: Tensor) -> Tensor:
    error = weight - q
    return ((error @ hessian) * error).sum(-1)


def _pair(q: Tensor) -> tuple[float, float]:
    return float(q[0]), float(q[1])


def _int4() -> QuantSpec:
    spec = Scheme.parse("w:int4/tensor").weights
    assert spec is not None
    return spec
