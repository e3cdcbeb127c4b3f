"""Rows of weights, swept over the columns: round a column, and let the columns still to come make up for it.

A row of a weight knows nothing of the other rows. So rows of several weights that share a Hessian, and of one weight
under several specs, stand side by side in one sweep; everything here is (K, rows) in visiting order, so that a step
reads and writes neighbours. What many rows share is kept once: a weight that is swept under several specs, and a scale
that serves a group of columns. `SweepState` says which of them a row uses.

    pull    (K, K), row j: what column j takes from the errors of the columns before it, M_ij / M_jj (see `gptq`)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quantcore.methods.sweep_state import GptqProblem, Order, SweepState, Trace
from quantcore.numbers.affine import QParams, qparams_of_range
from quantcore.numbers.kernels.triton_here import has_triton
from quantcore.numbers.qtensor import QTensor, global_scale_of, range_of_tiles

GPU_BLOCK = 256  # the least number of columns between two matrix products on a GPU


class Rows:
    """The rows of one weight under one spec.

    qparams     scales and zero points (O / rows_a_scale, groups)
    group       (K,) int32, the group of the column visited at each step
    run         so many steps share a group, from each step that is a multiple of it; 0: all do
    power       (K,) diag(H) in visiting order, where the spec weighs columns
    reach       the weight's least and greatest value, NaN where it holds one: looked at when the GPU is done
    waits       whether the scale of a group is taken when the sweep reaches it"""

    def __init__(
        self, problem: GptqProblem, order: Order, known: dict[object, tuple[Tensor, QParams]], hessian: Tensor
    ) -> None:
        """`known` keeps scales for problems to come that take them from the same numbers."""
        self.problem, self.order, self.spec = problem, order, problem.spec
        weight, options = problem.weight.detach(), problem.options
        self.block_size, self.waits = options.block_size, not options.static_groups
        self.rows_a_scale, self.columns_a_scale = self.spec.granularity.tile(weight.shape)
        self.by_group = options.keeps_g_idx and self.spec.granularity.groups_columns
        self.power = hessian.diagonal()[order.columns] if self.spec.weighs_columns else None
        key = (id(problem.weight), self.spec, self.by_group, id(problem.global_scale))
        found = None if self.waits else known.get(key)
        if found is None:
            visited = weight[:, order.columns] if self.by_group else weight
            power = self.power if self.by_group or self.power is None else hessian.diagonal()
            found = self._range_and_qparams(visited, problem.global_scale, power)
        if not self.waits:  # else they change on the way
            known[key] = found
        self.reach, self.qparams = found
        alone = order.sorted and not self.by_group
        self.run = 0 if self.columns_a_scale >= len(order.columns) else 1 if alone else self.columns_a_scale
        self.group = ((order.places[order.columns] if self.by_group else order.columns) // self.columns_a_scale).int()

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """Columns in blocks, cut at every group's start where a group's scale waits for the columns before it."""
        start, end = 0, len(self.group)
        while start < end:
            stop = min(start + size, end)
            if self.waits:
                stop = min(stop, (start // self.columns_a_scale + 1) * self.columns_a_scale)
            yield start, stop
            start = stop

    def visited(self, work: torch.dtype) -> Tensor:
        """The weight (K, O) in visiting order, in the dtype that is worked in."""
        columns = self.problem.weight.detach().T
        if self.order.sorted:
            return columns.index_select(0, self.order.columns).to(work)
        return columns.to(work, memory_format=torch.contiguous_format).contiguous()

    def qparams_at(self, step: int) -> QParams:
        """Scale and zero point of each row, (O,), at one step."""
        at = self.group[step : step + 1]
        return self.qparams.map(lambda part: part.index_select(1, at).flatten().repeat_interleave(self.rows_a_scale))

    def rescale(self, start: int, columns: Tensor) -> None:
        """The scale of the group that begins at `start`, from its columns (columns_a_scale, O) as they are now."""
        power = None if self.power is None else self.power[start : start + len(columns)]
        reach, fresh = self._range_and_qparams(columns.T.contiguous(), self.qparams.global_scale, power)
        self.reach = torch.stack([torch.minimum(self.reach[0], reach[0]), torch.maximum(self.reach[1], reach[1])])
        for kept, new in zip(self.qparams[:2], fresh[:2], strict=True):
            if kept is not None and new is not None:
                kept[:, start // self.columns_a_scale] = new[:, 0]

    def _range_and_qparams(
        self, x: Tensor, global_scale: Tensor | None, power: Tensor | None
    ) -> tuple[Tensor, QParams]:
        if global_scale is None:
            global_scale = global_scale_of(x, self.spec)
        lo, hi = range_of_tiles(x.float(), self.spec, global_scale, power)
        return torch.stack([lo.min(), hi.max()]), qparams_of_range(lo, hi, self.spec, global_scale)

    def codes(self, values: Tensor) -> Tensor:
        """The codes (O, K) in the columns' own order, from the codes' values (K, O) in visiting order."""
        if values.dtype == torch.int8 and values.is_cuda and has_triton():
            from quantcore.methods.kernels.gptq_passes import codes_of

            return codes_of(values, self.order.places)
        stored = self.spec.fmt.encode(values).view(torch.uint8)  # fp8 cannot be copied by index everywhere
        if self.order.sorted:
            stored = stored.index_select(0, self.order.places)
        return stored.T.contiguous().view(self.spec.fmt.storage)

    def result(self, codes: Tensor) -> QTensor:
        g_idx = self.group.index_select(0, self.order.places) if self.by_group else None
        scale, zero_point, global_scale = self.qparams
        return QTensor(codes, scale, zero_point, self.spec, g_idx, global_scale)


def sweep(parts: Sequence[Rows], pull: Tensor, diagonal: Tensor, trace: Trace | None) -> list[Tensor]:
    """Sweep the rows of all parts, which share order, block size and a kind of format; the codes of each, (O, K).

    diagonal    (K,), M_jj, for the trace's loss"""
    first, work = parts[0], pull.dtype
    on_gpu = takes_kernel(pull)
    size = max(GPU_BLOCK, first.block_size) if on_gpu else first.block_size
    split = on_gpu and not first.waits and len(pull) > size
    state = _state(parts, work, not on_gpu or trace is not None, not split or trace is not None)
    products = SplitProducts(pull, len(state.source), size) if split else None
    for start, stop in first.blocks(size):
        asks = None
        if start:
            asks = (
                products.product(start, stop) if products else torch.mm(pull[start:stop, :start], state.error[:start])
            )
        if first.waits and start % first.columns_a_scale == 0:
            _take_scale(first, start, state, pull)
        if on_gpu:
            from quantcore.methods.kernels.gptq_sweep import sweep_block

            halves = products.halves(start, stop) if products else None
            sweep_block(state, first.spec.fmt, pull, start, stop, asks, halves)
        else:
            _sweep_block(state, first, pull, start, stop, asks)
    if trace is not None:
        _note(trace, first, state, diagonal)
    widths = [len(part.problem.weight) for part in parts]
    return [part.codes(values) for part, values in zip(parts, torch.split(state.values, widths, 1), strict=True)]


def takes_kernel(pull: Tensor) -> bool:
    """Whether GPTQ's Triton kernels work on such a tensor."""
    return pull.is_cuda and pull.dtype == torch.float32 and has_triton()


def _state(parts: Sequence[Rows], work: torch.dtype, adjusted: bool, error: bool) -> SweepState:
    """`adjusted` and `error`: whether to keep them."""
    device, width = parts[0].group.device, len(parts[0].group)
    columns: dict[int, Tensor] = {}
    begins: dict[int, int] = {}
    source, scales, zeros, first, stride, place, lo, hi = ([] for _ in range(8))  # type: ignore[var-annotated]
    held = 0
    for number, part in enumerate(parts):
        out, weight = len(part.problem.weight), id(part.problem.weight)
        if weight not in columns:
            begins[weight] = sum(one.shape[1] for one in columns.values())
            columns[weight] = part.visited(work)
        rows = torch.arange(out, device=device, dtype=torch.int32)
        source.append(rows + begins[weight])
        scale, zero_point = part.qparams.scale, part.qparams.zero_point
        scales.append(_flat(scale))
        zeros.append(torch.zeros_like(scales[-1]) if zero_point is None else _flat(zero_point))
        first.append(held + (rows if part.rows_a_scale == 1 else rows // part.rows_a_scale))
        for kept, value in ((stride, len(scale)), (place, number)):
            kept.append(torch.full_like(rows, value))
        for kept, limit in ((lo, part.spec.fmt.qmin), (hi, part.spec.fmt.qmax)):
            kept.append(torch.full((out,), limit, device=device))
        held += scale.numel()
    total = sum(len(one) for one in source)
    if held >= 2**31:
        raise ValueError(f"{held} scales in one sweep are more than 32 bits count; solve fewer problems together")
    return SweepState(
        w=_joined(list(columns.values()), 1),
        source=_joined(source),
        scale=_joined(scales),
        zero_point=_joined(zeros) if any(part.qparams.zero_point is not None for part in parts) else None,
        first=_joined(first),
        stride=_joined(stride),
        group=torch.stack([part.group for part in parts]),
        part=_joined(place),
        run=math.gcd(*(part.run for part in parts)),
        lo=_joined(lo),
        hi=_joined(hi),
        adjusted=torch.empty(width if adjusted else 0, total, dtype=work, device=device),
        error=torch.empty(width if error else 0, total, dtype=work, device=device),
        values=torch.empty(
            width, total, dtype=torch.float32 if parts[0].spec.fmt.is_float else torch.int8, device=device
        ),
    )


def _flat(part: Tensor) -> Tensor:
    """Group by group; a copy, for `part` may change on the way."""
    return part.T.clone(memory_format=torch.contiguous_format).flatten()


def _joined(tensors: list[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


class SplitProducts:
    """pull[block, before] @ error[before] on tensor cores: each float32 factor is a sum of two bf16 numbers to 16 bits,
    a = a1 + a2, and a b = a1 b1 + a1 b2 + a2 b1, summed in float32. The three are one product over three times the
    width: of every block of columns the factors lie side by side as (a1, a1, a2) and (b1, b2, b1).

    Memory: 6 bytes for each number of pull and of error."""

    def __init__(self, pull: Tensor, rows: int, size: int) -> None:
        from quantcore.methods.kernels.gptq_passes import halves_of

        self.size = size
        self._pull = halves_of(pull, size)
        self._error = torch.empty(-(-len(pull) // size), 3, size, rows, dtype=torch.bfloat16, device=pull.device)

    def product(self, start: int, stop: int) -> Tensor:
        """Shape (stop - start, rows), float32."""
        known = self._error[: start // self.size].flatten(0, 2)
        return torch.mm(self._pull[start:stop, : 3 * start], known, out_dtype=torch.float32)

    def halves(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """pull's inside the block at `start`, and where its errors' go: (stop - start, 3 size) and (3, size, rows)."""
        return self._pull[start:stop, 3 * start :], self._error[start // self.size]


def _sweep_block(state: SweepState, part: Rows, pull: Tensor, start: int, stop: int, asks: Tensor | None) -> None:
    """Columns start..stop, one after another; `asks` is what the columns before `start` ask of them."""
    fmt, w = part.spec.fmt, state.columns(start, stop)
    scales, zero_points, _ = state.qparams(start, stop)
    state.adjusted[start:stop] = w if asks is None else w + asks
    for j in range(start, stop):
        adjusted, scale = state.adjusted[j], scales[j - start]
        if j > start:
            adjusted.addmv_(state.error[start:j].T, pull[j, start:j])
        steps = adjusted.float() / scale
        if zero_points is None:
            value = reached = fmt.round_to_grid(steps.clamp_(state.lo, state.hi))
        else:
            zero_point = zero_points[j - start]
            reached = fmt.round_to_grid(steps.clamp_(state.lo - zero_point, state.hi - zero_point))
            value = reached + zero_point
        state.values[j] = value
        torch.sub(w[j - start], scale * reached, out=state.error[j])


def _take_scale(part: Rows, start: int, state: SweepState, pull: Tensor) -> None:
    """At a group's first column, take its scale from the group as the columns before have moved it.

    All columns of the group are still free, so each moves with those before it: with m = moved - w and the unit lower
    triangular P = pull inside the group, P m = (pull of the columns before) error."""
    here = slice(start, start + part.columns_a_scale)
    moved = state.w[here]
    if start:
        pulled = pull[here, :start] @ state.error[:start]
        moved = moved + torch.linalg.solve_triangular(pull[here, here], pulled, upper=False, unitriangular=True)
    part.rescale(start, moved)
    group = start // part.columns_a_scale
    for held, kept in zip((state.scale, state.zero_point), part.qparams[:2], strict=True):
        if held is not None and kept is not None:
            held.view(kept.shape[1], -1)[group] = kept[:, group]


def _note(trace: Trace, part: Rows, state: SweepState, diagonal: Tensor) -> None:
    noted = torch.tensor(trace.rows, device=state.w.device)
    trace.order = part.order.columns.cpu()
    for name, columns in (
        ("original", state.w),
        ("adjusted", state.adjusted),
        ("quantized", state.w - state.error),
    ):
        setattr(trace, name, columns[:, noted].T.cpu())
    steps = (state.adjusted - state.w + state.error).double().square().sum(1) * diagonal.double().square()
    trace.loss = steps.cumsum(0).cpu()
