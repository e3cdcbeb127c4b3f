"""Does the order of the columns matter? One layer by rounding to nearest and by GPTQ in each order, loss along the way.

    study = order_study(weight, hessian, spec, damp, loud)      H = X^T X of calibration inputs, weight (O, K)

The loss after some columns is e H e^T of the weight as it then stands: visited columns rounded, the others moved by
GPTQ to make up for it (rounding to nearest leaves them). With the damped H' = H + d I = M M^T, U = M^-1, z = e M, e the
error in the end and E the error at that moment,

    e H' e^T of that moment = sum over visited j of |z_j|^2         E_k = sum over visited j of z_j U_jk

so the loss without damping is that sum less d |E|^2: no sweep is repeated. The last point is the loss of the result.
A column visited late has few columns left to make up for it: a loud one should come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from quantcore.methods.gptq import GptqProblem, factorize, gptq_quantize_many
from quantcore.methods.options import Actorder, Gptq
from quantcore.methods.sweep_state import Order
from quantcore.numbers.products import Growing, product
from quantcore.numbers.qtensor import QTensor, dequantize, quantize
from quantcore.numbers.spec import QuantSpec

POINTS = 64
ORDERS: tuple[Actorder, ...] = (None, "weight", "group")
METHODS = ("RTN", "GPTQ", "GPTQ, order weight", "GPTQ, order group")


@dataclass(frozen=True, eq=False)
class Course:
    """One method on the layer.

    order            (K,), the columns by visiting order
    steps, losses    after how many columns the loss was looked at, and the loss
    weight_error     |w - w_hat|^2 over |w|^2
    loud_steps       at which step each loud column is visited
    group            (K,), the group of each column, in the columns' own order
    unseen           |x e^T|^2 over |x w^T|^2 on inputs that the Hessian has not seen; None if none were given
    """

    method: str
    order: Tensor
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    weight_error: float
    bits_per_weight: float
    loud_steps: tuple[int, ...]
    group: Tensor
    unseen: float | None

    @property
    def loss(self) -> float:
        """In the end: sum over rows of e H e^T."""
        return self.losses[-1]


@dataclass(frozen=True, eq=False)
class OrderStudy:
    """`power` is |X W^T|^2 = sum of w H w^T: a loss over it is the share of the output's power; `diagonal` (K,) of H;
    `tokens` that H was summed over; `loud` the columns that are followed."""

    shape: tuple[int, int]
    power: float
    diagonal: Tensor
    tokens: int
    loud: tuple[int, ...]
    courses: tuple[Course, ...]

    def course(self, method: str) -> Course:
        return next(one for one in self.courses if one.method == method)

    def over_rtn(self, method: str) -> float:
        """A method's loss over that of rounding to nearest; 1 where both are without loss."""
        rtn = self.courses[0].loss
        return self.course(method).loss / rtn if rtn else 1.0


@dataclass(frozen=True, eq=False)
class Factor:
    """Of the damped H' = M M^T in visiting order: `mixing` is M^T, `inverse` U = M^-1, both (K, K)."""

    order: Order
    mixing: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, hessian: Tensor, damp: float, by_diagonal: bool) -> Factor:
        order = Order.of(hessian, by_diagonal)
        pull, diagonal, _ = factorize(hessian, order, damp)
        mixing = pull.tril(-1).mul_(diagonal[:, None])
        mixing.diagonal().copy_(diagonal)
        eye = torch.eye(len(mixing), dtype=mixing.dtype, device=mixing.device)
        return cls(order, mixing, torch.linalg.solve_triangular(mixing, eye, upper=False).T)


def order_study(
    weight: Tensor,
    hessian: Tensor,
    spec: QuantSpec,
    damp: float,
    tokens: int,
    loud: Sequence[int] = (),
    unseen: Tensor | None = None,
    factor_of: Callable[[bool], Factor] | None = None,
) -> OrderStudy:
    """RTN and GPTQ in three orders. Shapes: weight (O, K), hessian (K, K) over `tokens`, unseen (N, K) or None.

    factor_of    `Factor.of` this hessian and damping, remembered by whoever asks again under another spec; it is asked
                 once the codes are there, so that a Hessian without a factor is refused as GPTQ does
    Raises: ValueError as `gptq_quantize`."""
    factors = factor_of or cache(lambda by_diagonal: Factor.of(hessian.float(), damp, by_diagonal))
    look = _Look(weight.detach().float(), hessian.float(), damp, loud, unseen, factors)
    courses = [look.rtn(quantize(look.weight, spec))]
    problems = [GptqProblem(look.weight, spec, Gptq(actorder, damp)) for actorder in ORDERS]
    for method, problem, qtensor in zip(METHODS[1:], problems, gptq_quantize_many(problems, look.hessian), strict=True):
        courses.append(look.gptq(method, qtensor, problem.options.actorder is not None))
    return OrderStudy(
        shape=(weight.shape[0], weight.shape[1]),
        power=float((product(look.weight, look.hessian) * look.weight).sum(dtype=torch.float64)),
        diagonal=look.hessian.diagonal().cpu(),
        tokens=tokens,
        loud=look.loud,
        courses=tuple(courses),
    )


class _Look:
    """One layer, ready to follow the loss of any quantized weight along its order."""

    def __init__(
        self,
        weight: Tensor,
        hessian: Tensor,
        damp: float,
        loud: Sequence[int],
        unseen: Tensor | None,
        factor_of: Callable[[bool], Factor],
    ) -> None:
        self.weight, self.hessian, self.damp, self.loud = weight, hessian, damp, tuple(loud)
        self.unseen = None if unseen is None else unseen.to(weight)
        self._factor_of = factor_of
        self._output: Tensor | None = None

    def rtn(self, qtensor: QTensor) -> Course:
        """Column by column, none moved: the unvisited are exact."""
        error = self.weight - dequantize(qtensor)
        both = product(error, 2 * self.hessian.triu(1)).addcmul_(error, self.hessian.diagonal())
        added = (error * both).sum(0).double().cumsum(0).cpu()
        order = torch.arange(len(self.hessian))
        steps = self._steps(order)
        return self._course(METHODS[0], qtensor, order, steps, [0.0, *added[torch.tensor(steps[1:]) - 1].tolist()])

    def gptq(self, method: str, qtensor: QTensor, by_diagonal: bool) -> Course:
        factor = self._factor_of(by_diagonal)
        order = factor.order
        error = (self.weight - dequantize(qtensor)).index_select(1, order.columns)
        z = product(error, factor.mixing.T)  # e M
        columns = order.columns.cpu()
        steps = self._steps(columns)
        powers = powers_of_moved(z, factor.inverse, steps)
        visited, rounded = (column_powers(part).cumsum(0) for part in (z, error))
        ridge = self.damp * self.hessian.diagonal().mean().double()
        along, moved = torch.stack([visited, rounded]).cpu(), torch.stack([*powers, ridge]).cpu()  # waited for once
        at = torch.tensor(steps[1:]) - 1
        losses = along[0, at] - moved[-1] * (along[1, at] + moved[:-1])
        return self._course(method, qtensor, columns, steps, [0.0, *losses.tolist()])

    def _steps(self, order: Tensor) -> list[int]:
        """After how many columns to look: POINTS even steps, and before and after each loud column."""
        width = len(order)
        even = {round(width * i / POINTS) for i in range(POINTS + 1)}
        return sorted(even.union(*({step - 1, step} for step in self._loud_steps(order))))

    def _loud_steps(self, order: Tensor) -> list[int]:
        found: list[int] = (torch.argsort(order)[list(self.loud)] + 1).tolist()
        return found

    def _course(self, method: str, qtensor: QTensor, order: Tensor, steps: list[int], losses: list[float]) -> Course:
        error = self.weight - dequantize(qtensor)
        side_by_side = torch.arange(len(order)) // (len(order) // qtensor.scale.shape[1])
        return Course(
            method=method,
            order=order,
            steps=tuple(steps),
            losses=tuple(losses),
            weight_error=float(_power(error) / _power(self.weight)),
            bits_per_weight=qtensor.bits_per_weight,
            loud_steps=tuple(self._loud_steps(order)),
            group=side_by_side if qtensor.g_idx is None else qtensor.g_idx.cpu().long(),
            unseen=None if self.unseen is None else self._of_unseen(self.unseen, error),
        )

    def _of_unseen(self, x: Tensor, error: Tensor) -> float:
        """The error's share of the output's power on inputs x that the Hessian has not seen."""
        if self._output is None:
            self._output = _power(product(x, self.weight.T))
        return float(_power(product(x, error.T)) / self._output)


def powers_of_moved(z: Tensor, inverse: Tensor, steps: Sequence[int]) -> list[Tensor]:
    """|E|^2 of the columns still to be visited, behind each of the steps but the first."""
    moved = Growing(z, inverse)
    return [_power(moved.behind(start, stop)) for start, stop in pairwise(steps)]


def _power(x: Tensor) -> Tensor:
    """The sum of squares, a float64 scalar that nobody waits for."""
    return column_powers(x).sum()


def column_powers(x: Tensor) -> Tensor:
    """The sum of squares of each column, (K,) float64; each is summed in float32, which reads x once."""
    size: Tensor = torch.linalg.vector_norm(x, dim=0)
    return size.double().square()
