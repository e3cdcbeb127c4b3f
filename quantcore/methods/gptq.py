"""GPTQ: quantize one column after another, and let the columns that are still to come make up for each error.

The layer's error on its inputs is  loss = sum over rows of e H e^T,  e = w - w_hat,  H = X^T X.  Column by column, in
visiting order, GPTQ moves each column to the best place given the errors already made, and only then rounds it.

`gptq_plain` reads like the paper: the inverse of H, its Cholesky factor, the error of each column spread to the right.
`gptq_quantize` takes the same steps without an inverse. Write the damped H as M M^T with M upper triangular (a Cholesky
factorization of H with both axes flipped). Then loss = sum_j |(e M)_j|^2, each term ends at column j, and the column
that makes it least is

    w'_j = w_j + sum_{i<j} (w_i - q_i) M_ij / M_jj          q_j = round(w'_j)          loss_j = M_jj^2 |w'_j - q_j|^2

in the original weights w. Everything a block of columns needs from the columns before it is one matrix product; inside
a block a small sequential part is left, a Triton kernel on a GPU (`sweep`). Rows of several weights that share H (q, k,
v; gate, up), and of one weight under several specs, are swept together: `gptq_quantize_many`.

On a GPU nothing waits for it before everything is launched: what is wrong with a Hessian, a factorization or a weight
is read at the end, in that order, by `refuse_all`. A factorization leaves most of every multiprocessor idle, so it is
launched first, on a stream of its own, and the work that needs no factor goes on beside it.

Source: Frantar et al. 2022, arXiv:2210.17323, section 3.3 and algorithm 1; order by diag(H): act-order of the
authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from quantcore.methods.options import Gptq
from quantcore.methods.sweep import Rows, sweep, takes_kernel
from quantcore.methods.sweep_state import GptqProblem, Order, Trace
from quantcore.numbers.affine import QParams, from_grid, not_finite, to_grid
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.spec import QuantSpec

__all__ = ["CholeskyError", "GptqProblem", "Trace", "gptq_loss", "gptq_plain", "gptq_quantize", "gptq_quantize_many"]

SYMMETRY_TOLERANCE = 1e-3
SUM_ROUNDING = 1e-5  # of a sum over thousands of float32 entries of one sign, as inputs behind a ReLU have


class CholeskyError(ValueError):
    """The damped Hessian is not positive definite to working precision."""


def gptq_quantize(
    weight: Tensor,
    hessian: Tensor,
    spec: QuantSpec,
    options: Gptq | None = None,
    trace: Trace | None = None,
    name: str = "this layer",
) -> QTensor:
    """Codes of `weight` that make e H e^T small, e = weight - dequantized.

    Shapes: weight (O, K), hessian (K, K) = X^T X of the layer's inputs, any scale. float64 weights are worked on in
    float64, others in float32. `name` is what an error calls the layer.
    Raises: ValueError for a Hessian of the wrong size, with NaN, not symmetric or all zero, and for what `quantize`
    refuses; CholeskyError where the damping does not make it positive definite."""
    return _solve([GptqProblem(weight, spec, options or Gptq())], hessian, name, trace)[0]


def gptq_quantize_many(problems: Sequence[GptqProblem], hessian: Tensor, name: str = "this layer") -> list[QTensor]:
    """`gptq_quantize` of several problems that share a Hessian: other weights, specs or options.

    One factorization for each order and damping that occurs, and one sweep for all rows that can go together (integer
    formats of any width; each float format). The same codes as one by one, up to the rounding of the matrix products.
    Memory: 9 bytes for each number of the rows that are swept together, and one float32 copy of each weight. Shapes and
    errors: as `gptq_quantize`."""
    if not problems:
        raise ValueError("there is no problem to solve; give at least one weight")
    return _solve(list(problems), hessian, name, None)


def gptq_plain(weight: Tensor, hessian: Tensor, spec: QuantSpec, options: Gptq | None = None) -> QTensor:
    """What `gptq_quantize` computes, step by step as the paper writes it, in float64: the slow measure of the other.

    With U the upper Cholesky factor of H^-1 = U^T U: err = (w_j - q_j) / U_jj, then w_i -= err U_ji for all i > j."""
    name = "this layer"
    _refuse_shape(hessian, weight.shape[1], name)
    findings = examine(hessian)
    options = options or Gptq()
    order = Order.of(hessian, options.actorder is not None)
    rows = Rows(GptqProblem(weight.double(), spec, options), order, {}, hessian)
    refuse_all([Findings(findings, [], [rows], name)])
    damped = hessian.double()[order.columns][:, order.columns]
    damped.diagonal().add_(options.damp * damped.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    w = rows.visited(torch.float64).clone()
    values = torch.empty(w.shape, dtype=torch.float32, device=w.device)
    for j in range(len(w)):
        if rows.waits and j % rows.columns_a_scale == 0:
            rows.rescale(j, w[j : j + rows.columns_a_scale])
        qparams = rows.qparams_at(j)
        values[j] = to_grid(w[j], qparams, spec.fmt)
        err = (w[j] - from_grid(values[j], qparams)) / upper[j, j]
        w[j + 1 :] -= upper[j, j + 1 :, None] * err
    return rows.result(rows.codes(values))


def gptq_loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """sum over rows of e H e^T, e = weight - quantized, in float64: |X e^T|^2 where H = X^T X."""
    error = weight.double() - quantized.double()
    return float(((error @ hessian.double()) * error).sum())


def _solve(problems: list[GptqProblem], hessian: Tensor, name: str, trace: Trace | None) -> list[QTensor]:
    launched = _launch(problems, hessian, name, trace)
    refuse_all([launched.findings])
    return launched.codes()


def gptq_quantize_in_turn(sets: Sequence[tuple[Sequence[GptqProblem], Tensor, str]]) -> list[list[QTensor]]:
    """`gptq_quantize_many` of one set after another, each (problems, Hessian, name). A GPU is waited for once, behind
    the last. Raises: what is wrong with the first set that something is wrong with."""
    launched = [_launch(list(problems), hessian, name, None) for problems, hessian, name in sets]
    refuse_all([one.findings for one in launched])
    return [one.codes() for one in launched]


class _Launched(NamedTuple):
    """A solution that the device may still be working on. solved: of each problem its rows and codes."""

    findings: Findings
    solved: list[tuple[Rows, Tensor]]

    def codes(self) -> list[QTensor]:
        return [part.result(codes) for part, codes in self.solved]


def _launch(problems: list[GptqProblem], hessian: Tensor, name: str, trace: Trace | None) -> _Launched:
    for problem in problems:
        if problem.weight.ndim != 2:
            shape = tuple(problem.weight.shape)
            raise ValueError(f"{name}: GPTQ needs a weight matrix, got shape {shape}; give (O, K)")
        if problem.weight.shape[1] != problems[0].weight.shape[1]:
            widths = sorted({one.weight.shape[1] for one in problems})
            raise ValueError(f"{name}: weights of {widths} columns cannot share a Hessian; solve them apart")
    width = problems[0].weight.shape[1]
    _refuse_shape(hessian, width, name)
    work = torch.float64 if any(one.weight.dtype == torch.float64 for one in problems) else torch.float32
    fronts: dict[tuple[bool, float], dict[object, list[int]]] = {}
    for index, problem in enumerate(problems):
        options = problem.options
        together = problem.spec.fmt.name if problem.spec.fmt.is_float else "int"
        fronts.setdefault((options.actorder is not None, options.damp), {}).setdefault(
            (together, options.block_size) if options.static_groups else index, []
        ).append(index)
    factors = _Factors(hessian.to(work), list(fronts))
    findings = examine(hessian)
    known: dict[object, tuple[Tensor, QParams]] = {}
    solved: dict[int, tuple[Rows, Tensor]] = {}
    for front, sets in fronts.items():
        order = factors.orders[front[0]]
        rows = [[Rows(problems[index], order, known, hessian) for index in members] for members in sets.values()]
        pull, diagonal = factors.next()
        for members, parts in zip(sets.values(), rows, strict=True):
            solved |= zip(members, zip(parts, sweep(parts, pull, diagonal, trace), strict=True), strict=True)
    rows_of_all = [part for part, _ in solved.values()]
    return _Launched(
        Findings(findings, factors.without, rows_of_all, name), [solved[index] for index in range(len(problems))]
    )


class _Factors:
    """The factorization of each front, (sorted or not, damping), one ahead of the front that is swept.

    without    of each front that was launched: its damping, and how many columns have no factor"""

    def __init__(self, hessian: Tensor, fronts: list[tuple[bool, float]]) -> None:
        self.without: list[tuple[float, Tensor]] = []
        self._hessian, self._waiting = hessian, fronts[::-1]
        self._beside = _stream_beside(hessian.device) if hessian.is_cuda else None
        self.orders: dict[bool, Order] = {}
        self._launch()

    def next(self) -> tuple[Tensor, Tensor]:
        """pull and diagonal (see `sweep`) of the next front; its successor is launched."""
        factor, done = self._ahead
        if self._waiting:
            self._launch()
        if done is not None:
            here = torch.cuda.current_stream(self._hessian.device)
            here.wait_event(done)
            for tensor in factor:
                tensor.record_stream(here)
        return factor[:2]

    def _launch(self) -> None:
        by_diagonal, damp = self._waiting.pop()
        if by_diagonal not in self.orders:
            self.orders[by_diagonal] = Order.of(self._hessian, by_diagonal)
        done = None
        if self._beside is None:
            factor = factorize(self._hessian, self.orders[by_diagonal], damp)
        else:
            self._beside.wait_stream(torch.cuda.current_stream(self._hessian.device))
            with torch.cuda.stream(self._beside):
                factor = factorize(self._hessian, self.orders[by_diagonal], damp)
            done = self._beside.record_event()
        self._ahead = factor, done
        self.without.append((damp, factor[2]))


@cache
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    """One for each GPU: memory that was freed on a stream is kept for that stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def factorize(hessian: Tensor, order: Order, damp: float) -> tuple[Tensor, Tensor, Tensor]:
    """pull and M's diagonal, M upper triangular with the damped H = M M^T in visiting order; and how many columns are
    left without a factor, 0 where there is an M. What is above pull's diagonal may be anything.

    With both axes of H reversed, M is the lower triangular factor, reversed alike. H is symmetric, so cholesky_ex gets
    it by columns, as it wants it."""
    if takes_kernel(hessian):
        from quantcore.methods.kernels.cholesky import factor_of

        pull, diagonal = factor_of(hessian.contiguous(), order.columns, damp)
        return pull, diagonal, torch.count_nonzero(~(diagonal > 0))
    if order.sorted:
        last_first = order.columns.flip(0)
        backwards = hessian.index_select(0, last_first).index_select(1, last_first)
    else:
        backwards = hessian.flip(0, 1)
    backwards.diagonal().add_(damp * hessian.diagonal().mean())
    lower, first_without = torch.linalg.cholesky_ex(backwards.mT)
    rows = lower.mT
    diagonal = rows.diagonal()
    without = torch.where(first_without > 0, len(rows) + 1 - first_without, 0)
    return rows.div(diagonal[:, None]).flip(0, 1), diagonal.flip(0), without


def _refuse_shape(hessian: Tensor, width: int, name: str) -> None:
    if tuple(hessian.shape) != (width, width):
        raise ValueError(
            f"{name}: a weight of {width} columns needs a Hessian of shape ({width}, {width}), got "
            f"{tuple(hessian.shape)}; calibrate this layer's own inputs"
        )


def examine(hessian: Tensor) -> Tensor:
    """(largest entry, largest difference of a row's and a column's sum beyond what their rounding makes): read by
    `refuse_all`, when the GPU is done."""
    least, most = torch.aminmax(hessian)
    # H v and H^T v for one uneven v: the difference of two entries shows in a sum, at a fraction of H - H^T's cost.
    probe = 1 + torch.frac(torch.arange(len(hessian), device=hessian.device, dtype=hessian.dtype) * 0.61803)
    across, down = hessian @ probe, hessian.T @ probe
    apart = ((across - down).abs() - SUM_ROUNDING * across.abs()).clamp(min=0)
    return torch.stack([torch.maximum(most, -least), apart.max()])


class Findings(NamedTuple):
    """What may be wrong with a set of problems: `examine` of its Hessian, of each factorization its damping and the
    columns without a factor, the rows whose `reach` tells of NaN, and what an error calls the layers."""

    hessian: Tensor
    factors: list[tuple[float, Tensor]]
    rows: list[Rows]
    name: str

    @property
    def numbers(self) -> Tensor:
        reaches = list({id(part.reach): part.reach for part in self.rows}.values())
        without = [missing.double().view(1) for _, missing in self.factors]
        return torch.cat([self.hessian.double(), *without, *(reach.double() for reach in reaches)])


def refuse_all(sets: Sequence[Findings]) -> None:
    """Raise what was wrong with a Hessian, its factors or the weights, the first thing first. Waits for the GPU, once:
    nothing before does."""
    numbers = [one.numbers for one in sets]
    known = iter(torch.cat(numbers).tolist() if numbers else [])
    for one, its in zip(sets, numbers, strict=True):
        _refuse(one, [next(known) for _ in range(len(its))])


def _refuse(one: Findings, found: list[float]) -> None:
    largest, apart = found[:2]
    name, factors = one.name, one.factors
    if not largest < float("inf"):
        raise ValueError(f"{name}: the Hessian holds NaN or Inf; calibrate again, in float32")
    if largest == 0:
        raise ValueError(
            f"{name}: the Hessian is all zero, since every input was 0; calibrate over other text, or round it to "
            "nearest"
        )
    if apart > SYMMETRY_TOLERANCE * largest:
        raise ValueError(
            f"{name}: the Hessian is not symmetric (row and column sums differ by {apart:g}, the largest entry is "
            f"{largest:g}); give X^T X"
        )
    for (damp, _), missing in zip(factors, found[2:], strict=False):
        if missing:
            raise CholeskyError(
                f"{name}: the Hessian is not positive definite with damp={damp:g} ({int(missing)} columns are left "
                f"without a factor); use a larger damp, such as {10 * damp:g}, or calibrate on more tokens"
            )
    limits = found[2 + len(factors) :]
    for lo, hi in zip(limits[::2], limits[1::2], strict=True):
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise ValueError(not_finite(lo, hi))
