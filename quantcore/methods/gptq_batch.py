"""GPTQ of many small problems at once: a mixture's experts, each with a Hessian of its own, all of one shape.

What `gptq_quantize_many` does for one Hessian, step by step for B of them: every tensor has the problems in front, so
that a column costs one step for all. The codes are the same, up to the rounding of matrix products.

    pull (B, K, K), w (B, K, R), error (B, K, R)          R rows of all weights that read one input

Memory: BATCH_NUMBERS numbers of weights and factors at a time, about 16 bytes each; more are taken in turn. On a GPU
the sweep's Triton kernel takes one Hessian at a time: one is launched behind the other, and waited for at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quantcore.methods.gptq import Findings, GptqProblem, examine, factorize, gptq_quantize_in_turn, refuse_all
from quantcore.methods.sweep import Rows, takes_kernel
from quantcore.methods.sweep_state import Order
from quantcore.numbers.qtensor import QTensor

BATCH_NUMBERS = 2**26


class GptqSet(NamedTuple):
    """Problems that share a Hessian (K, K), and what an error calls their layers."""

    problems: Sequence[GptqProblem]
    hessian: Tensor
    name: str


def gptq_quantize_sets(sets: Sequence[GptqSet]) -> list[list[QTensor]]:
    """The codes of every set's problems. Sets that are alike (shapes, one spec and one way of solving) are solved
    together, others one by one. Raises: as `gptq_quantize`."""
    alike: dict[object, list[int]] = {}
    for place, one in enumerate(sets):
        alike.setdefault(_likeness(one), []).append(place)
    found: dict[int, list[QTensor]] = {}
    for likeness, places in alike.items():
        if likeness is None or len(places) == 1:
            solved = gptq_quantize_in_turn([sets[one] for one in places])
        else:
            solved = [codes for batch in _batches([sets[one] for one in places]) for codes in solve_together(batch)]
        found |= zip(places, solved, strict=True)
    return [found[place] for place in range(len(sets))]


def _likeness(one: GptqSet) -> object:
    """Equal for sets that can be solved together; None where a set is solved alone."""
    first = one.problems[0]
    if takes_kernel(one.hessian) or not first.options.static_groups:
        return None
    if any((each.spec, each.options) != (first.spec, first.options) for each in one.problems):
        return None
    if any(each.weight.dtype == torch.float64 or each.weight.ndim != 2 for each in one.problems):
        return None
    if tuple(one.hessian.shape) != (first.weight.shape[1],) * 2:
        return None
    return (first.spec, first.options, tuple(each.weight.shape for each in one.problems))


def _batches(sets: list[GptqSet]) -> list[list[GptqSet]]:
    numbers = sets[0].hessian.numel() + sum(one.weight.numel() for one in sets[0].problems)
    most = max(1, BATCH_NUMBERS // numbers)
    return [sets[start : start + most] for start in range(0, len(sets), most)]


def solve_together(sets: list[GptqSet]) -> list[list[QTensor]]:
    """The codes of sets that are alike, column by column for all of them. Raises: as `gptq_quantize`."""
    options, fmt = sets[0].problems[0].options, sets[0].problems[0].spec.fmt
    hessians = [one.hessian.float() for one in sets]
    orders = [Order.of(one, options.actorder is not None) for one in hessians]
    rows = [
        [Rows(each, order, {}, one.hessian) for each in one.problems] for one, order in zip(sets, orders, strict=True)
    ]
    factors = [factorize(one, order, options.damp) for one, order in zip(hessians, orders, strict=True)]
    refuse_all(
        [
            Findings(examine(one.hessian), [(options.damp, without)], parts, one.name)
            for one, (_, _, without), parts in zip(sets, factors, rows, strict=True)
        ]
    )
    pull = torch.stack([factor[0] for factor in factors])
    w = torch.stack([torch.cat([part.visited(torch.float32) for part in parts], 1) for parts in rows])
    scale, zero_point = _per_row(rows, 0), None if sets[0].problems[0].spec.symmetric else _per_row(rows, 1)
    group = torch.stack([parts[0].group for parts in rows]).long()
    error, values = torch.empty_like(w), torch.empty_like(w)
    for start in range(0, w.shape[1], options.block_size):
        stop = min(start + options.block_size, w.shape[1])
        at = group[:, start:stop, None].expand(-1, -1, w.shape[2])
        scales = scale.gather(1, at)
        zeros = None if zero_point is None else zero_point.gather(1, at)
        moved = w[:, start:stop] + torch.bmm(pull[:, start:stop, :start], error[:, :start]) if start else w[:, :stop]
        for j in range(start, stop):
            column = moved[:, j - start]
            if j > start:
                column = column + torch.bmm(pull[:, j : j + 1, start:j], error[:, start:j])[:, 0]
            steps = column / scales[:, j - start]
            if zeros is None:
                reached = fmt.round_to_grid(steps.clamp(fmt.qmin, fmt.qmax))
                values[:, j] = reached
            else:
                zero = zeros[:, j - start]
                reached = fmt.round_to_grid(torch.minimum(torch.maximum(steps, fmt.qmin - zero), fmt.qmax - zero))
                values[:, j] = reached + zero
            error[:, j] = w[:, j] - scales[:, j - start] * reached
    if not fmt.is_float:
        values = values.to(torch.int8)
    return [_results(parts, codes) for parts, codes in zip(rows, values, strict=True)]


def _per_row(rows: list[list[Rows]], which: int) -> Tensor:
    """Scales (0) or zero points (1) of every row, (B, groups, R)."""
    found = []
    for parts in rows:
        held = [(part.qparams[which], part.rows_a_scale) for part in parts]
        found.append(torch.cat([x.T.repeat_interleave(count, 1) for x, count in held if x is not None], 1))
    return torch.stack(found)


def _results(parts: list[Rows], values: Tensor) -> list[QTensor]:
    widths = [len(part.problem.weight) for part in parts]
    return [part.result(part.codes(own)) for part, own in zip(parts, torch.split(values, widths, 1), strict=True)]
