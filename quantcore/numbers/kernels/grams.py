"""X^T X of many experts at once: rows of x sorted by expert, for each one a matrix of its own to add to.

    sums[n] += X_e^T X_e,  X_e = x[ends[e - 1] : ends[e]],  e = which[n]     on and to the right of the diagonal

A program makes one tile of one expert's sum, in float32 from exact products of 16-bit numbers, and adds it: experts and
tiles fill the GPU together, where a product for each expert would leave most of it idle, and nobody waits to learn how
many rows an expert has.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.kernels.launch import launch

TILE = 128
ROWS = 64


@triton.jit
def _grams(x_ptr, ends_ptr, which_ptr, tile_i_ptr, tile_j_ptr, sums_ptr, width, TILE: tl.constexpr, ROWS: tl.constexpr):
    number = tl.program_id(1)
    expert = tl.load(which_ptr + number)
    start = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends_ptr + expert)
    if start < end:
        i = tl.load(tile_i_ptr + tl.program_id(0)) * TILE + tl.arange(0, TILE)
        j = tl.load(tile_j_ptr + tl.program_id(0)) * TILE + tl.arange(0, TILE)
        row = tl.arange(0, ROWS)
        total = tl.zeros((TILE, TILE), dtype=tl.float32)
        for at in range(start, end, ROWS):
            here = at + row
            line = x_ptr + here.to(tl.int64)[:, None] * width
            known = (here < end)[:, None]
            left = tl.load(line + i[None, :], mask=known & (i < width)[None, :], other=0.0)
            right = tl.load(line + j[None, :], mask=known & (j < width)[None, :], other=0.0)
            total = tl.dot(tl.trans(left), right, total)
        place = sums_ptr + (number.to(tl.int64) * width + i.to(tl.int64)[:, None]) * width + j[None, :]
        inside = (i < width)[:, None] & (j < width)[None, :]
        tl.store(place, tl.load(place, mask=inside, other=0.0) + total, mask=inside)


def add_grams(x: Tensor, ends: Tensor, which: Tensor, sums: Tensor) -> None:
    """Adds to `sums` (n, K, K) float32 in place. Shapes: x (P, K) bf16 or fp16, contiguous; ends (E,), which (n,)."""
    width = x.shape[1]
    tile_i, tile_j = _tiles(triton.cdiv(width, TILE), x.device)
    grid = (len(tile_i), len(which))
    ends, which = ends.to(torch.int32), which.to(torch.int32)
    launch(_grams, grid, x, ends, which, tile_i, tile_j, sums, width, TILE=TILE, ROWS=ROWS, num_warps=8, num_stages=3)


@cache
def _tiles(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each tile on and to the right of the diagonal."""
    i, j = torch.triu_indices(count, count, dtype=torch.int32, device=device)
    return i.contiguous(), j.contiguous()
