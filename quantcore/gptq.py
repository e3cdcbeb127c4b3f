"""GPTQ: quantize one column after another, and let the columns that are still to come make up for each error.

The layer's error on its inputs is  loss = sum over rows of e H e^T,  e = w - w_hat,  H = X^T X.  Column by column, in
visiting order, GPTQ moves each column to the best place given the errors already made, and only then rounds it.

`gptq_plain` reads like the paper: the inverse of H, its Cholesky factor, the error of each column spread to the right.
`gptq_quantize` takes the same steps without an inverse. Write the damped H as M M^T with M upper triangular (a Cholesky
factorization of H with both axes flipped). Then loss = sum_j |(e M)_j|^2, each term ends at column j, and the column
that makes it least is

    w'_j = w_j + sum_{i<j} (w_i - q_i) M_ij / M_jj          q_j = round(w'_j)          loss_j = M_jj^2 |w'_j - q_j|^2

in the original weights w. Everything a block of columns needs from the columns before it is one matrix product.

Source: Frantar et al. 2022, arXiv:2210.17323, section 3.3 and algorithm 1; order by diag(H): act-order of the
authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantcore.affine import QParams, from_grid, to_grid
from quantcore.granularity import PerBlock, PerGroup
from quantcore.qtensor import QTensor, qparams_for
from quantcore.scheme import Gptq, QuantSpec

SYMMETRY_TOLERANCE = 1e-3


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
    sweep = _Sweep(weight, hessian, spec, options or Gptq(), name)
    factor = _factor(sweep.hessian, sweep.options, name)
    diagonal = factor.diagonal()
    # Rows of T are columns of the weight: each step then reads and writes contiguous memory.
    pull = (factor / diagonal).T.contiguous()
    w = sweep.weight.T.contiguous()
    error, adjusted = torch.zeros_like(w), torch.empty_like(w)
    for start, stop in sweep.blocks():
        adjusted[start:stop] = torch.addmm(w[start:stop], pull[start:stop, :start], error[:start])
        sweep.enter(start, w, error, pull)
        for j in range(start, stop):
            if j > start:
                adjusted[j].addmv_(error[start:j].T, pull[j, start:j])
            error[j] = w[j] - sweep.round(j, adjusted[j])
    if trace is not None:
        steps = (adjusted - w + error).square().sum(1) * diagonal.square()
        sweep.write(trace, w.T, adjusted.T, (w - error).T, steps)
    return sweep.result()


def gptq_plain(
    weight: Tensor, hessian: Tensor, spec: QuantSpec, options: Gptq | None = None, name: str = "this layer"
) -> QTensor:
    """What `gptq_quantize` computes, step by step as the paper writes it, in float64: the slow measure of the other.

    With U the upper Cholesky factor of H^-1 = U^T U: err = (w_j - q_j) / U_jj, then w_i -= err U_ji for all i > j."""
    sweep = _Sweep(weight.double(), hessian, spec, options or Gptq(), name)
    damped = _damped(sweep.hessian, sweep.options)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    w = sweep.weight.T.clone()
    for j in range(len(w)):
        sweep.enter_plain(j, w)
        q = sweep.round(j, w[j])
        err = (w[j] - q) / upper[j, j]
        w[j + 1 :] -= upper[j, j + 1 :, None] * err
    return sweep.result()


def gptq_loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """sum over rows of e H e^T, e = weight - quantized, in float64: |X e^T|^2 where H = X^T X."""
    error = weight.double() - quantized.double()
    return float(((error @ hessian.double()) * error).sum())


class _Sweep:
    """What both forms share: the checked problem in visiting order, the scales, and the codes as they come."""

    def __init__(self, weight: Tensor, hessian: Tensor, spec: QuantSpec, options: Gptq, name: str) -> None:
        if weight.ndim != 2:
            raise ValueError(f"{name}: GPTQ needs a weight matrix, got shape {tuple(weight.shape)}; give (O, K)")
        _check_hessian(hessian, weight.shape[1], name)
        self.spec, self.options = spec, options
        work = torch.float64 if weight.dtype == torch.float64 else torch.float32
        weight = weight.detach().to(work)
        hessian = hessian.to(work)
        width = weight.shape[1]
        tile = spec.granularity.tile(weight.shape)
        if options.actorder is None:
            self.order = torch.arange(width, device=weight.device)
        else:
            self.order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        self.weight = weight[:, self.order]
        self.hessian = hessian[self.order][:, self.order]
        self.by_group = options.actorder == "group" and isinstance(spec.granularity, PerGroup | PerBlock)
        self.qparams = qparams_for((self.weight if self.by_group else weight).float(), spec)
        self.rows_a_scale, self.columns_a_scale = tile
        places = torch.arange(width, device=weight.device)
        self.group = (places if self.by_group else self.order) // self.columns_a_scale
        self.group_of = self.group.tolist()
        self._values = torch.empty(width, len(weight), device=weight.device)
        self._scales = self._widened()

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Columns in blocks, cut at every group's start where a group's scale waits for the columns before it."""
        width, size = self.weight.shape[1], self.options.block_size
        start = 0
        while start < width:
            stop = min(start + size, width)
            if not self.options.static_groups:
                stop = min(stop, (start // self.columns_a_scale + 1) * self.columns_a_scale)
            yield start, stop
            start = stop

    def enter(self, start: int, w: Tensor, error: Tensor, pull: Tensor) -> None:
        """At a group's first column, take its scale from the group as the columns before have moved it.

        All columns of the group are still free, so each moves with those before it: with d = w - moved and unit lower
        triangular P = pull inside the group, P d = -(pull of the columns before) error."""
        if self.options.static_groups or start % self.columns_a_scale:
            return
        here = slice(start, start + self.columns_a_scale)
        pulled = pull[here, :start] @ error[:start]
        moved = w[here] + torch.linalg.solve_triangular(pull[here, here], pulled, upper=False, unitriangular=True)
        self._rescale(start, moved)

    def enter_plain(self, j: int, w: Tensor) -> None:
        if not self.options.static_groups and j % self.columns_a_scale == 0:
            self._rescale(j, w[j : j + self.columns_a_scale])

    def round(self, j: int, column: Tensor) -> Tensor:
        """The value that the j-th visited column is stored as; its code is kept."""
        scale, zero_point = self._scales
        group = self.group_of[j]
        qparams = QParams(scale[group], None if zero_point is None else zero_point[group])
        value = to_grid(column, qparams, self.spec.fmt)
        self._values[j] = value
        return from_grid(value, qparams)

    def result(self) -> QTensor:
        """The codes in the columns' own order."""
        values = torch.empty_like(self._values.T.contiguous())
        values[:, self.order] = self._values.T
        g_idx = None
        if self.by_group:
            g_idx = torch.empty_like(self.group, dtype=torch.int32)
            g_idx[self.order] = self.group.int()
        scale, zero_point = self.qparams
        return QTensor(self.spec.fmt.encode(values), scale, zero_point, self.spec, g_idx)

    def write(self, trace: Trace, w: Tensor, adjusted: Tensor, quantized: Tensor, steps: Tensor) -> None:
        rows = list(trace.rows)
        trace.order = self.order.cpu()
        trace.original, trace.adjusted, trace.quantized = (t[rows].cpu() for t in (w, adjusted, quantized))
        trace.loss = steps.double().cumsum(0).cpu()

    def _rescale(self, start: int, columns: Tensor) -> None:
        group = self.group_of[start]
        fresh = qparams_for(columns.T.float().contiguous(), self.spec)
        self.qparams.scale[:, group] = fresh.scale[:, 0]
        if self.qparams.zero_point is not None and fresh.zero_point is not None:
            self.qparams.zero_point[:, group] = fresh.zero_point[:, 0]
        self._scales = self._widened()

    def _widened(self) -> QParams:
        """Scales and zero points as (groups, O): one contiguous row for each group of columns."""

        def widen(part: Tensor) -> Tensor:
            return part.repeat_interleave(self.rows_a_scale, 0).T.contiguous()

        scale, zero_point = self.qparams
        return QParams(widen(scale), None if zero_point is None else widen(zero_point))


def _check_hessian(hessian: Tensor, width: int, name: str) -> None:
    if tuple(hessian.shape) != (width, width):
        raise ValueError(
            f"{name}: a weight of {width} columns needs a Hessian of shape ({width}, {width}), got "
            f"{tuple(hessian.shape)}; calibrate this layer's own inputs"
        )
    largest = float(hessian.abs().max())
    if not largest < float("inf"):
        raise ValueError(f"{name}: the Hessian holds NaN or Inf; calibrate again, in float32")
    if largest == 0:
        raise ValueError(f"{name}: the Hessian is all zero, so no input was seen; calibrate over some text")
    apart = float((hessian - hessian.T).abs().max())
    if apart > SYMMETRY_TOLERANCE * largest:
        raise ValueError(
            f"{name}: the Hessian is not symmetric (entries differ by {apart:g}, the largest is {largest:g}); "
            "give X^T X"
        )


def _damped(hessian: Tensor, options: Gptq) -> Tensor:
    damped = hessian.clone()
    damped.diagonal().add_(options.damp * hessian.diagonal().mean())
    return damped


def _factor(hessian: Tensor, options: Gptq, name: str) -> Tensor:
    """M, upper triangular with H + damping = M M^T."""
    lower, info = torch.linalg.cholesky_ex(_damped(hessian, options).flip(0, 1))
    if int(info):
        raise CholeskyError(
            f"{name}: the Hessian is not positive definite with damp={options.damp:g} (the factorization stops at "
            f"column {int(info)} of {len(hessian)}); use a larger damp, such as {10 * options.damp:g}, or calibrate on "
            "more tokens"
        )
    factor: Tensor = lower.flip(0, 1)
    return factor
