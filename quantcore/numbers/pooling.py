"""Shrink a matrix for the screen without losing an outlier: a cell shows its block's value of largest magnitude.

The matrix is shrunk where it lies; only the cells come to the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAP_ROWS, MAP_COLS = 128, 160


class Pooled(NamedTuple):
    """values (R, C), on the CPU; cell (r, c) stands for row_step x col_step numbers, the first at (r * row_step,
    c * col_step)."""

    values: Tensor
    row_step: int
    col_step: int


def pool_extreme(matrix: Tensor, max_rows: int = MAP_ROWS, max_cols: int = MAP_COLS) -> Pooled:
    """The matrix (O, K) as at most max_rows x max_cols cells: of each block, the signed value furthest from 0."""
    row_step = -(-matrix.shape[0] // max_rows)
    col_step = -(-matrix.shape[1] // max_cols)
    padding = (0, -matrix.shape[1] % col_step, 0, -matrix.shape[0] % row_step)
    padded = F.pad(matrix.float(), padding) if any(padding) else matrix.float()
    blocks = padded.reshape(padded.shape[0] // row_step, row_step, padded.shape[1] // col_step, col_step)
    lo, hi = blocks.amin(1).amin(2), blocks.amax(1).amax(2)  # rows first: in whole vectors
    return Pooled(torch.where(-lo > hi, lo, hi).cpu(), row_step, col_step)


def extreme_places(matrix: Tensor, pooled: Pooled) -> tuple[Tensor, Tensor]:
    """Row and column in the matrix of the number that each cell of `pool_extreme(matrix, ...)` shows, each (R, C)."""
    (rows, cols), (row_step, col_step) = pooled.values.shape, pooled[1:]
    padding = (0, cols * col_step - matrix.shape[1], 0, rows * row_step - matrix.shape[0])
    padded = F.pad(matrix.float().abs(), padding, value=-1.0)
    blocks = padded.reshape(rows, row_step, cols, col_step).transpose(1, 2).flatten(2)
    place = blocks.argmax(-1).cpu()
    return (
        torch.arange(rows)[:, None] * row_step + place // col_step,
        torch.arange(cols) * col_step + place % col_step,
    )
