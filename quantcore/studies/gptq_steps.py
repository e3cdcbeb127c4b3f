"""GPTQ on a small tile, column by column: what each rounding breaks, and what the push to the right takes back.

    w_j -> q_j                     the column of this step is rounded, as the columns before it have moved it
    err  = (w_j - q_j) / U_jj      (H + damping)^-1 = U^T U, U upper triangular
    w_k -= err U_jk                for all k > j: the push

The tile is some rows and some columns of a real layer, with the rows and columns of the real H = X^T X that belong to
them. All other columns are taken to stay exact; then their error is zero, and the layer's loss is e H e^T over the tile
alone. After each step the loss is that of the weight as it then stands: the columns on the left rounded, those on the
right moved. Rounding to nearest does the same without the push. `damping` enters U only, never the loss.
Source: Frantar et al. 2022, arXiv:2210.17323, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.methods.gptq import Trace, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.numbers.granularity import largest_divisor
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.spec import QuantSpec

TILE_ROWS, TILE_COLUMNS, TILE_GROUP = 16, 48, 16


@dataclass(frozen=True, eq=False)
class TileSteps:
    """R rows, C columns, everything in visiting order, float64.

    rows, columns       the tile's rows, and its columns by visiting order: numbers in the layer
    group               (C,), the group whose scale each column uses
    original, adjusted  (R, C): the weight, and where each column had been moved to when its turn came
    quantized, rtn      (R, C): what GPTQ and rounding to nearest made of it
    err                 (R, C): err of each step;   factor (C, C): U; the push of step j is -err[:, j] x U[j, j+1:]
    rounded_loss        (C,): the loss after each rounding, before its push
    loss, rtn_loss      (C + 1,): before the first step and after each
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    group: tuple[int, ...]
    original: Tensor
    adjusted: Tensor
    quantized: Tensor
    rtn: Tensor
    err: Tensor
    factor: Tensor
    rounded_loss: Tensor
    loss: Tensor
    rtn_loss: Tensor


def neighbours(hessian: Tensor) -> tuple[int, ...]:
    """Columns side by side, the one with the largest diag(H) near their middle."""
    size = tile_width(len(hessian))
    start = min(max(0, int(hessian.diagonal().argmax()) - size // 2), len(hessian) - size)
    return tuple(range(start, start + size))


def companions(hessian: Tensor) -> tuple[int, ...]:
    """The columns that go together most, in the layer's order: largest mean of H_ij^2 / (H_ii H_jj) over all j."""
    diagonal = hessian.diagonal().clamp_min(torch.finfo(hessian.dtype).tiny)
    shared = (hessian.square() / diagonal).sum(1) / diagonal
    return tuple(sorted(shared.topk(tile_width(len(hessian))).indices.tolist()))


def tile_rows(out: int) -> tuple[int, ...]:
    """TILE_ROWS rows, or all, evenly spread."""
    count = min(TILE_ROWS, out)
    return tuple(i * out // count for i in range(count))


def tile_width(width: int) -> int:
    """How many of a layer's columns a tile takes: TILE_COLUMNS, or as many as there are in whole groups."""
    return min(TILE_COLUMNS, width - width % TILE_GROUP or width)


def tile_group(width: int) -> int:
    """How many columns share a scale in the tile of a layer of so many columns."""
    return largest_divisor(tile_width(width), TILE_GROUP)


def tile_steps(
    weight: Tensor, hessian: Tensor, rows: Sequence[int], columns: Sequence[int], spec: QuantSpec, options: Gptq
) -> TileSteps:
    """Sweep the tile weight[rows, columns], with scales of its own under `spec`.

    Shapes: weight (O, K), hessian (K, K). Raises: what `gptq_quantize` raises."""
    at = torch.tensor(list(columns))
    tile = _cut(weight, torch.tensor(list(rows)), at)
    hessian = _cut(hessian, at, at)
    trace = Trace(rows=tuple(range(len(tile))))
    qtensor = gptq_quantize(tile, hessian, spec, options, trace, name="this tile")
    order = trace.order
    sorted_hessian = hessian[order][:, order]
    factor = inverse_factor(damped(sorted_hessian, options.damp))
    err = (trace.adjusted - trace.quantized) / factor.diagonal()
    rounded, pushed = _error_states(trace, err, factor)
    rtn = fake_quantize(tile.float(), spec).double()[:, order]
    left = torch.ones(len(order), len(order), dtype=torch.bool).tril()[:, None]  # (step, 1, column)
    zero = torch.zeros(1, dtype=torch.float64)
    group_of = torch.arange(len(at)) // spec.granularity.tile(tile.shape)[1]
    return TileSteps(
        rows=tuple(rows),
        columns=tuple(at[order].tolist()),
        group=tuple((group_of if qtensor.g_idx is None else qtensor.g_idx)[order].tolist()),
        original=trace.original,
        adjusted=trace.adjusted,
        quantized=trace.quantized,
        rtn=rtn,
        err=err,
        factor=factor,
        rounded_loss=_losses(rounded, sorted_hessian),
        loss=torch.cat([zero, _losses(pushed, sorted_hessian)]),
        rtn_loss=torch.cat([zero, _losses((trace.original - rtn) * left, sorted_hessian)]),
    )


def _cut(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Those rows and columns, float64 on the CPU: the cut is made where the matrix lies."""
    there = matrix.detach()
    return there[rows.to(there.device)][:, columns.to(there.device)].cpu().double()


def damped(hessian: Tensor, damp: float) -> Tensor:
    """H + damp mean(diag H) I."""
    result = hessian.clone()
    result.diagonal().add_(damp * hessian.diagonal().mean())
    return result


def inverse_factor(matrix: Tensor) -> Tensor:
    """U, upper triangular with positive diagonal, and matrix^-1 = U^T U: the inverse of M where matrix = M M^T."""
    upper = torch.linalg.cholesky(matrix.flip(0, 1)).flip(0, 1)
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    inverse: Tensor = torch.linalg.solve_triangular(upper, eye, upper=True)
    return inverse


def _error_states(trace: Trace, err: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """original - weight as it stands at each step, (C, R, C): after the rounding, and after its push."""
    width = len(factor)
    pushes = (err.T[:, :, None] * factor[:, None, :]).cumsum(0)
    done = torch.ones(width, width, dtype=torch.bool).tril()[:, None]
    error = trace.original - trace.quantized
    before = torch.cat([torch.zeros_like(pushes[:1]), pushes[:-1]])
    return torch.where(done, error, before), torch.where(done, error, pushes)


def _losses(errors: Tensor, hessian: Tensor) -> Tensor:
    """sum over rows of e H e^T of each of a stack of errors (n, R, C)."""
    return ((errors @ hessian) * errors).sum((1, 2))
