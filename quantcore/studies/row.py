"""One row of a weight and the few values it may keep: each weight jumps to the nearest level.

study = row_study(weight, loud_row(weight), QuantSpec(int_format(4), PerChannel()))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.numbers.distance import tensor_error
from quantcore.numbers.granularity import PerChannel
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.numbers.spec import QuantSpec

WINDOW = 64


@dataclass(frozen=True, eq=False)
class RowStudy:
    """A row under one spec, and the window of it around its largest weight; all tensors float32.

    row, columns     its output channel, and how many weights it has: K
    first            the window's first column; the window has C columns
    weight           (C,), w
    restored         (C,), w_hat = step * code
    error            (C,), w_hat - w; for integer formats |error| <= step / 2
    levels           (L,), every value that a weight of this row can be restored to, ascending
    step             the row's scale: what one code is worth
    used             how many levels the row's K weights take
    zeros            share of the K weights that become exactly 0
    sqnr_db          of the K weights
    """

    row: int
    columns: int
    first: int
    weight: Tensor
    restored: Tensor
    error: Tensor
    levels: Tensor
    step: float
    used: int
    zeros: float
    sqnr_db: float


def row_study(weight: Tensor, row: int, spec: QuantSpec) -> RowStudy:
    """Quantize row `row` of `weight` (O, K) under a spec that gives every row its own scale.

    Raises: ValueError for another granularity, a zero point, a row that is not there, NaN or Inf in the row."""
    if not isinstance(spec.granularity, PerChannel) or not spec.symmetric:
        raise ValueError(f"one row is shown with one scale and no zero point, not under {spec}; try int4/channel")
    if not 0 <= row < len(weight):
        raise ValueError(f"row {row} is outside a weight of {len(weight)} rows; take 0 to {len(weight) - 1}")
    whole = weight[row : row + 1].float().cpu()
    qtensor = quantize(whole, spec)
    restored = dequantize(qtensor)
    window = window_around(int(whole.abs().argmax()), whole.shape[1])
    return RowStudy(
        row=row,
        columns=whole.shape[1],
        first=window.start,
        weight=whole[0, window],
        restored=restored[0, window],
        error=(restored - whole)[0, window],
        levels=float(qtensor.scale) * spec.fmt.grid(),
        step=float(qtensor.scale),
        used=len(set(restored.flatten().tolist())),
        zeros=float((restored == 0).float().mean()),
        sqnr_db=tensor_error(whole, restored).sqnr_db,
    )


def loud_row(weight: Tensor, share: float = 1.0) -> int:
    """The row of (O, K) that is louder than `share` of all rows; share=1: the loudest of all.

    Loudness is max |w| / median |w|: how far one weight stretches the levels that all must share. Ties go to the lower
    row. Raises: ValueError for a share outside 0..1."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share:g} is outside 0..1; try 0.9, or 1 for the loudest row")
    magnitude = weight.float().abs()
    typical = magnitude.median(1).values.clamp(min=torch.finfo(torch.float32).tiny)
    order = (magnitude.amax(1) / typical).argsort(descending=True, stable=True)
    return int(order[round((1 - share) * (len(order) - 1))])


def window_around(column: int, columns: int, width: int = WINDOW) -> slice:
    """At most `width` neighbouring columns, with `column` in their middle where the row's ends allow it."""
    start = min(max(column - width // 2, 0), max(columns - width, 0))
    return slice(start, min(start + width, columns))
