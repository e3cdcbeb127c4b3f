"""GPTQ: quantize one column after another, and let the columns that are still to come make up for each error.

The layer's error on its inputs is  loss = sum over rows of e H e^T,  e = w - w_hat,  H = X^T X.  Column by column, in
visiting order, GPTQ moves each column to the best place given the errors already made, and only then rounds it.

`gptq_plain` reads like the paper: the inverse of H, its Cholesky factor, the error of each column spread to the right.
`gptq_quantize` takes the same steps without an inverse. Write the damped H as M M^T with M upper triangular (a Cholesky
factorization of H with both axes flipped). Then loss = sum_j |(e M)_j|^2, each term ends at column j, and the column
that makes it least is

    w'_j = w_j + sum_{i<j} (w_i - q_i) M_ij / M_jj          q_j = round(w'_j)          loss_j = M_jj^2 |w'_j - q_j|^2

in the original weights w. Everything a block of columns needs from the columns before it is one matrix product; inside
a block a small sequential part is left, a Triton kernel on a GPU.

A row of the weight knows nothing of the others, so rows of several weights that share H (q, k, v; gate, up), and of one
weight under several specs, are swept together: `gptq_quantize_many`.

Source: Frantar et al. 2022, arXiv:2210.17323, section 3.3 and algorithm 1; order by diag(H): act-order of the
authors' code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantcore.affine import QParams, from_grid, to_grid
from quantcore.granularity import PerBlock, PerGroup
from quantcore.qtensor import QTensor, qparams_for
from quantcore.scheme import Gptq, QuantSpec

SYMMETRY_TOLERANCE = 1e-3
GPU_BLOCK = 256  # the least number of columns between two matrix products on a GPU


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


@dataclass(frozen=True)
class GptqProblem:
    """One weight, (O, K), and what is wanted of it."""

    weight: Tensor
    spec: QuantSpec
    options: Gptq = Gptq()


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
    Memory: six float32 copies of the rows that are swept together. Shapes and errors: as `gptq_quantize`."""
    if not problems:
        raise ValueError("there is no problem to solve; give at least one weight")
    return _solve(list(problems), hessian, name, None)


def gptq_plain(
    weight: Tensor, hessian: Tensor, spec: QuantSpec, options: Gptq | None = None, name: str = "this layer"
) -> QTensor:
    """What `gptq_quantize` computes, step by step as the paper writes it, in float64: the slow measure of the other.

    With U the upper Cholesky factor of H^-1 = U^T U: err = (w_j - q_j) / U_jj, then w_i -= err U_ji for all i > j."""
    problem = GptqProblem(weight.double(), spec, options or Gptq())
    _refuse(_examine(hessian, weight.shape[1], name), [], name)
    rows = _Rows(problem, _order(hessian, problem.options))
    damped = _damped(hessian.double()[rows.order][:, rows.order], problem.options)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    w, values = rows.w.clone(), torch.empty_like(rows.scale)
    for j in range(len(w)):
        if rows.waits and j % rows.columns_a_scale == 0:
            rows.rescale(j, w[j : j + rows.columns_a_scale])
        qparams = QParams(rows.scale[j], None if rows.zero_point is None else rows.zero_point[j])
        values[j] = to_grid(w[j], qparams, spec.fmt)
        err = (w[j] - from_grid(values[j], qparams)) / upper[j, j]
        w[j + 1 :] -= upper[j, j + 1 :, None] * err
    return rows.result(values)


def gptq_loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """sum over rows of e H e^T, e = weight - quantized, in float64: |X e^T|^2 where H = X^T X."""
    error = weight.double() - quantized.double()
    return float(((error @ hessian.double()) * error).sum())


def _solve(problems: list[GptqProblem], hessian: Tensor, name: str, trace: Trace | None) -> list[QTensor]:
    for problem in problems:
        if problem.weight.ndim != 2:
            shape = tuple(problem.weight.shape)
            raise ValueError(f"{name}: GPTQ needs a weight matrix, got shape {shape}; give (O, K)")
        if problem.weight.shape[1] != problems[0].weight.shape[1]:
            widths = sorted({one.weight.shape[1] for one in problems})
            raise ValueError(f"{name}: weights of {widths} columns cannot share a Hessian; solve them apart")
    findings = _examine(hessian, problems[0].weight.shape[1], name)
    work = torch.float64 if any(one.weight.dtype == torch.float64 for one in problems) else torch.float32
    hessian = hessian.to(work)
    fronts: dict[tuple[bool, float], dict[object, list[int]]] = {}
    for index, problem in enumerate(problems):
        options = problem.options
        together = problem.spec.fmt.name if problem.spec.fmt.is_float else "int"
        fronts.setdefault((options.actorder is not None, options.damp), {}).setdefault(
            (together, options.block_size) if options.static_groups else index, []
        ).append(index)
    solved: dict[int, QTensor] = {}
    failed: list[tuple[Gptq, Tensor]] = []
    for sets in fronts.values():
        options = problems[next(iter(sets.values()))[0]].options
        order = _order(hessian, options)
        # Choosing scales waits for the GPU to look for NaN in a weight; nothing after it waits before the end.
        rows = [[_Rows(problems[index], order, work) for index in members] for members in sets.values()]
        sorted_hessian = hessian if options.actorder is None else hessian[order][:, order]
        factor, stopped = _factor(_damped(sorted_hessian, options))
        failed.append((options, stopped))
        if any(parts[0].waits for parts in rows):  # else a bad factor's NaN would be told as the weight's
            _refuse(findings, failed, name)
        for members, parts in zip(sets.values(), rows, strict=True):
            solved |= dict(zip(members, _sweep(parts, factor, trace), strict=True))
    _refuse(findings, failed, name)
    return [solved[index] for index in range(len(problems))]


def _sweep(parts: list[_Rows], factor: Tensor, trace: Trace | None) -> list[QTensor]:
    """Sweep the rows of all parts over the columns, (K, rows) in memory: a step reads and writes neighbours."""
    diagonal = factor.diagonal()
    pull = (factor / diagonal).T.contiguous()  # its row j says what column j takes from the errors of those before
    alone = len(parts) == 1
    w = parts[0].w if alone else torch.cat([part.w for part in parts], 1)
    state = SweepState(
        w=w,
        scale=parts[0].scale if alone else torch.cat([part.scale for part in parts], 1),
        zero_point=_zero_points(parts),
        lo=torch.cat([part.bound(part.spec.fmt.qmin) for part in parts]),
        hi=torch.cat([part.bound(part.spec.fmt.qmax) for part in parts]),
        adjusted=torch.empty_like(w),
        error=torch.empty_like(w),
        values=torch.empty(w.shape, dtype=torch.float32, device=w.device),
    )
    on_gpu = w.is_cuda and w.dtype == torch.float32 and importlib.util.find_spec("triton") is not None
    size = max(GPU_BLOCK, parts[0].block_size) if on_gpu else parts[0].block_size
    split = _SplitProducts(pull, w.shape[1], size) if on_gpu and not parts[0].waits and len(w) > size else None
    for start, stop in parts[0].blocks(size):
        asks = split.product(start, stop) if split is not None and start else None
        if asks is None:
            torch.addmm(w[start:stop], pull[start:stop, :start], state.error[:start], out=state.adjusted[start:stop])
        if parts[0].waits and start % parts[0].columns_a_scale == 0:
            _take_scale(parts[0], start, state, pull)
        if on_gpu:
            from quantcore.kernels.gptq_sweep import sweep_block

            halves = None if split is None else split.halves(start)
            sweep_block(state, parts[0].spec.fmt, pull, start, stop, asks, halves)
        else:
            _sweep_block(state, parts[0], pull, start, stop)
    if trace is not None:
        noted = torch.tensor(trace.rows, device=w.device)
        trace.order = parts[0].order.cpu()
        for name, columns in (("original", w), ("adjusted", state.adjusted), ("quantized", w - state.error)):
            setattr(trace, name, columns[:, noted].T.cpu())
        steps = (state.adjusted - w + state.error).double().square().sum(1) * diagonal.double().square()
        trace.loss = steps.cumsum(0).cpu()
    return [
        part.result(values)
        for part, values in zip(parts, torch.split(state.values, [part.w.shape[1] for part in parts], 1), strict=True)
    ]


@dataclass
class SweepState:
    """What a sweep reads (w, scale, zero_point; the range lo..hi of each row's codes) and writes, all (K, rows)."""

    w: Tensor
    scale: Tensor
    zero_point: Tensor | None
    lo: Tensor
    hi: Tensor
    adjusted: Tensor
    error: Tensor
    values: Tensor


class _SplitProducts:
    """pull[block, before] @ error[before] on tensor cores: each float32 factor is a sum of two bf16 numbers to 16 bits,
    a = a1 + a2, and a b = a1 b1 + a1 b2 + a2 b1, summed in float32. The three are one product over three times the
    width: of every block of columns the factors lie side by side as (a1, a1, a2) and (b1, b2, b1).

    Memory: 6 bytes for each number of pull and of error."""

    def __init__(self, pull: Tensor, rows: int, size: int) -> None:
        self.size, before = size, (len(pull) - 1) // size
        high, low = _halves(pull[:, : before * size].reshape(len(pull), before, size))
        self._pull = torch.stack([high, high, low], 2).flatten(1)
        self._error = torch.empty(before, 3, size, rows, dtype=torch.bfloat16, device=pull.device)

    def product(self, start: int, stop: int) -> Tensor:
        """Shape (stop - start, rows), float32."""
        known = self._error[: start // self.size].flatten(0, 2)
        return torch.mm(self._pull[start:stop, : 3 * start], known, out_dtype=torch.float32)

    def halves(self, start: int) -> Tensor | None:
        """Where the errors of the block at `start` go for the blocks to come, (3, size, rows); None for the last."""
        return self._error[start // self.size] if start // self.size < len(self._error) else None


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    high = x.bfloat16()
    return high, (x - high).bfloat16()


def _sweep_block(state: SweepState, part: _Rows, pull: Tensor, start: int, stop: int) -> None:
    """Columns start..stop, one after another; `adjusted` holds what the columns before `start` ask of them."""
    fmt = part.spec.fmt
    for j in range(start, stop):
        adjusted, scale = state.adjusted[j], state.scale[j]
        if j > start:
            adjusted.addmv_(state.error[start:j].T, pull[j, start:j])
        steps = adjusted.float() / scale
        if state.zero_point is None:
            value = reached = fmt.round_to_grid(steps.clamp_(state.lo, state.hi))
        else:
            zero_point = state.zero_point[j]
            reached = fmt.round_to_grid(steps.clamp_(state.lo - zero_point, state.hi - zero_point))
            value = reached + zero_point
        state.values[j] = value
        torch.sub(state.w[j], scale * reached, out=state.error[j])


def _take_scale(part: _Rows, start: int, state: SweepState, pull: Tensor) -> None:
    """At a group's first column, take its scale from the group as the columns before have moved it.

    All columns of the group are still free, so each moves with those before it: with m = moved - w and the unit lower
    triangular P = pull inside the group, P m = (pull of the columns before) error."""
    here = slice(start, start + part.columns_a_scale)
    pulled = pull[here, :start] @ state.error[:start]
    moved = state.w[here] + torch.linalg.solve_triangular(pull[here, here], pulled, upper=False, unitriangular=True)
    part.rescale(start, moved)
    state.scale[here] = part.scale[here]
    if state.zero_point is not None and part.zero_point is not None:
        state.zero_point[here] = part.zero_point[here]


def _zero_points(parts: list[_Rows]) -> Tensor | None:
    if all(part.zero_point is None for part in parts):
        return None
    return torch.cat([torch.zeros_like(p.scale) if p.zero_point is None else p.zero_point for p in parts], 1)


class _Rows:
    """One weight in visiting order, transposed: w, scale and zero_point are (K, O), the columns' own order is `order`.

    waits   whether the scale of a group is taken when the sweep reaches it"""

    def __init__(self, problem: GptqProblem, order: Tensor, work: torch.dtype = torch.float64) -> None:
        weight, spec, options = problem.weight.detach(), problem.spec, problem.options
        self.spec, self.order, self.block_size = spec, order, options.block_size
        self.waits, self.reordered = not options.static_groups, options.actorder is not None
        self.rows_a_scale, self.columns_a_scale = spec.granularity.tile(weight.shape)
        self.by_group = options.actorder == "group" and isinstance(spec.granularity, PerGroup | PerBlock)
        visited = weight[:, order] if self.reordered else weight
        self.qparams = qparams_for((visited if self.by_group else weight).float(), spec)
        places = torch.arange(len(order), device=weight.device)
        self.group = (places if self.by_group else order) // self.columns_a_scale
        self.w = visited.T.to(work).contiguous()
        self.scale = self._for_each(self.qparams.scale)
        self.zero_point = None if self.qparams.zero_point is None else self._for_each(self.qparams.zero_point)

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """Columns in blocks, cut at every group's start where a group's scale waits for the columns before it."""
        start, end = 0, len(self.w)
        while start < end:
            stop = min(start + size, end)
            if self.waits:
                stop = min(stop, (start // self.columns_a_scale + 1) * self.columns_a_scale)
            yield start, stop
            start = stop

    def bound(self, limit: float) -> Tensor:
        return torch.full((self.w.shape[1],), limit, device=self.w.device)

    def rescale(self, start: int, columns: Tensor) -> None:
        """The scale of the group that begins at `start`, from its columns (columns_a_scale, O) as they are now."""
        group, here = start // self.columns_a_scale, slice(start, start + self.columns_a_scale)
        fresh = qparams_for(columns.T.float().contiguous(), self.spec)
        for kept, wide, new in (
            (self.qparams.scale, self.scale, fresh.scale),
            (self.qparams.zero_point, self.zero_point, fresh.zero_point),
        ):
            if kept is not None and wide is not None and new is not None:
                kept[:, group] = new[:, 0]
                wide[here] = new[:, 0].repeat_interleave(self.rows_a_scale)

    def result(self, values: Tensor) -> QTensor:
        """The codes in the columns' own order, from values (K, O) in visiting order."""
        codes = self.spec.fmt.encode(values)
        if self.reordered:
            visited = codes.view(torch.uint8)  # fp8 codes cannot be copied by index everywhere
            codes = torch.empty_like(visited).index_copy_(0, self.order, visited).view(codes.dtype)
        g_idx = None
        if self.by_group:
            g_idx = torch.empty_like(self.group, dtype=torch.int32)
            g_idx[self.order] = self.group.int()
        scale, zero_point = self.qparams
        return QTensor(codes.T.contiguous(), scale, zero_point, self.spec, g_idx)

    def _for_each(self, part: Tensor) -> Tensor:
        """Scales (O / rows, groups) as one number for each weight, (K, O), in visiting order."""
        return part.T[self.group].repeat_interleave(self.rows_a_scale, 1)


def _examine(hessian: Tensor, width: int, name: str) -> Tensor:
    """(largest entry, largest difference of a row's and a column's sum): read by `_refuse`, when the GPU is done."""
    if tuple(hessian.shape) != (width, width):
        raise ValueError(
            f"{name}: a weight of {width} columns needs a Hessian of shape ({width}, {width}), got "
            f"{tuple(hessian.shape)}; calibrate this layer's own inputs"
        )
    least, most = torch.aminmax(hessian)
    # H v and H^T v for one uneven v: the difference of two entries shows in a sum, at a fraction of H - H^T's cost.
    probe = 1 + torch.frac(torch.arange(width, device=hessian.device, dtype=hessian.dtype) * 0.61803)
    return torch.stack([torch.maximum(most, -least), (hessian @ probe - hessian.T @ probe).abs().max()])


def _refuse(findings: Tensor, failed: list[tuple[Gptq, Tensor]], name: str) -> None:
    """Raise what was wrong with the Hessian, the first thing first. Waits for the GPU, once: nothing before does."""
    found = torch.cat([findings.double(), *(stopped.double().view(1) for _, stopped in failed)]).tolist()
    largest, apart = found[:2]
    if not largest < float("inf"):
        raise ValueError(f"{name}: the Hessian holds NaN or Inf; calibrate again, in float32")
    if largest == 0:
        raise ValueError(f"{name}: the Hessian is all zero, so no input was seen; calibrate over some text")
    if apart > SYMMETRY_TOLERANCE * largest:
        raise ValueError(
            f"{name}: the Hessian is not symmetric (row and column sums differ by {apart:g}, the largest entry is "
            f"{largest:g}); give X^T X"
        )
    for (options, _), stopped in zip(failed, found[2:], strict=True):
        if stopped:
            raise CholeskyError(
                f"{name}: the Hessian is not positive definite with damp={options.damp:g} (the factorization stops at "
                f"column {int(stopped)}); use a larger damp, such as {10 * options.damp:g}, or calibrate on more tokens"
            )


def _order(hessian: Tensor, options: Gptq) -> Tensor:
    """The columns in visiting order, (K,)."""
    if options.actorder is None:
        return torch.arange(len(hessian), device=hessian.device)
    return torch.argsort(hessian.diagonal(), descending=True, stable=True)


def _damped(hessian: Tensor, options: Gptq) -> Tensor:
    damped = hessian.clone()
    damped.diagonal().add_(options.damp * hessian.diagonal().mean())
    return damped


def _factor(damped: Tensor) -> tuple[Tensor, Tensor]:
    """M, upper triangular with the damped H = M M^T, and the column at which there is no such M, 0 where there is."""
    lower, stopped = torch.linalg.cholesky_ex(damped.flip(0, 1))
    return lower.flip(0, 1), stopped
