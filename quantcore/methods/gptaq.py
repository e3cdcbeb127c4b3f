"""GPTAQ: GPTQ that also hands on, column by column, what quantized layers before have done to the inputs.

Behind quantized layers a layer reads X~ where the float model has X. When GPTQ has rounded column i, it spreads the
rounding error over the columns still to come; GPTAQ spreads alpha w_i (x_i - x~_i) over them as well, what column i's
input has lost. With the damped X~^T X~ inverted and factorized, H^-1 = U^T U, U upper triangular:

    w_j -= (w_i - q_i) U_ij / U_ii - w_i P_ij       for all j > i        P = alpha triu(D U^T, 1) U

D = (X - X~)^T X~, and w_i is the weight as it is when its turn comes. Qronos moves the whole weight first, each column
by the inputs of all; here a column is moved by those before it alone.

Both terms are linear in w and q, so GPTQ's sweep does it, from other weights and with another pull. With N =
diag(U)^-1 U - I, strictly upper triangular, the steps say w' (I - P + N) = w + q N, and the sweep (see `gptq`) takes
v_j + sum_{i<j} (v_i - q_i) L_ij:

    v = w (I - P)^-1            I + L = (I - P) (I - P + N)^-1

D = 0 gives v = w and GPTQ's own L. Beyond its block of 128 columns the authors' code takes q_i for w_i, at most half a
step of the grid away; alpha is its 0.25. Scales are those of w.

Source: Li et al. 2025, arXiv:2504.02692 (GPTAQ, first called GPTQv2), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quantcore.methods.gptq import Findings, GptqProblem, examine, factorize, gptq_quantize_many, refuse_all
from quantcore.methods.sweep import Rows, sweep
from quantcore.methods.sweep_state import Order
from quantcore.numbers.qtensor import QTensor


def gptaq_quantize_many(
    problems: Sequence[GptqProblem],
    hessian: Tensor,
    drift: Tensor | None,
    alphas: Sequence[float],
    name: str = "this layer",
) -> list[QTensor]:
    """The codes of weights (O, K) that read the same inputs, each with its alpha; groups keep their columns. hessian
    (K, K) = X~^T X~; drift (K, K) = X~^T (X - X~), None where nothing before is quantized.

    float64 weights are worked on in float64, others in float32. Raises: as `gptq_quantize`."""
    if drift is None:
        return gptq_quantize_many(problems, hessian, name)
    fronts: dict[tuple[bool, float, float, object], list[int]] = {}
    for place, (problem, alpha) in enumerate(zip(problems, alphas, strict=True)):
        options, fmt = problem.options, problem.spec.fmt
        together = (fmt.name if fmt.is_float else "int", options.block_size)
        fronts.setdefault((options.actorder is not None, options.damp, alpha, together), []).append(place)
    work = torch.float64 if any(one.weight.dtype == torch.float64 for one in problems) else torch.float32
    found: dict[int, QTensor] = {}
    checks = [Findings(examine(hessian), [], [], name)]
    solved: list[tuple[int, Rows, Tensor]] = []
    for (by_diagonal, damp, alpha, _), places in fronts.items():
        order = Order.of(hessian, by_diagonal)
        pull, diagonal, without = factorize(hessian.to(work), order, damp)
        turned, pull = _with_drift(pull, diagonal, _visited(drift.to(work), order), alpha)
        rows = [_rows(problems[place], order, turned, hessian) for place in places]
        checks.append(Findings(checks[0].hessian, [(damp, without)], rows, name))
        solved += zip(places, rows, sweep(rows, pull, diagonal, None), strict=True)
    refuse_all(checks)
    for place, part, codes in solved:
        found[place] = part.result(codes)
    return [found[place] for place in range(len(problems))]


def _with_drift(pull: Tensor, diagonal: Tensor, drift: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(I - P)^-1, and the sweep's pull L^T; pull, diagonal: `factorize`'s, drift in visiting order."""
    one = torch.eye(len(pull), dtype=pull.dtype, device=pull.device)
    kept = pull.tril(-1).T + one  # I + L of GPTQ alone, = (I + N)^-1
    own = torch.linalg.solve_triangular(kept, one, upper=True, unitriangular=True)  # I + N
    u = own / diagonal[:, None]
    p = alpha * (drift.T @ u.T).triu(1) @ u
    moved = one - p
    turned = torch.linalg.solve_triangular(moved, one, upper=True, unitriangular=True)
    pulled = torch.linalg.solve_triangular(own - p, moved, upper=True, unitriangular=True, left=False)
    return turned, (pulled - one).T.contiguous()


def _visited(drift: Tensor, order: Order) -> Tensor:
    return drift.index_select(0, order.columns).index_select(1, order.columns) if order.sorted else drift


def _rows(problem: GptqProblem, order: Order, turned: Tensor, hessian: Tensor) -> Rows:
    """The rows of v, with the scales of w."""
    rows = Rows(problem, order, {}, hessian)
    v = problem.weight.detach().to(turned.dtype).index_select(1, order.columns) @ turned
    rows.problem = replace(problem, weight=v.index_select(1, order.places))
    return rows
