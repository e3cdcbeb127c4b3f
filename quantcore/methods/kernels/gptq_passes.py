"""What GPTQ does to whole matrices before and after its sweep, each in one pass over memory.

halves  (K, 3 before size) bf16: of each block of `size` columns that another follows, the high halves of pull, the
        same again, the low halves (see `sweep.SplitProducts`); rows of later blocks alone are written, and what
        is above pull's diagonal is not read
codes   (O, K) in the columns' own order, from the sweep's (K, O) in visiting order
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.kernels.launch import launch

ROWS = 32
COLUMNS = 128
TILE = 64


@triton.jit
def _halves(pull_ptr, out_ptr, width, out_width, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    block = i // size
    if tl.program_id(0) * ROWS + ROWS > tl.program_id(1) * COLUMNS:  # else no row here is of a later block
        wanted = (j < width)[:, None] & (block < out_width // (3 * size))[None, :]
        row = j.to(tl.int64)[:, None]
        x = tl.load(pull_ptr + row * width + i[None, :], mask=wanted & (i[None, :] <= j[:, None]), other=0.0)
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
        at = out_ptr + row * out_width + (3 * size * block + i % size)[None, :]
        tl.store(at, high, mask=wanted)
        tl.store(at + size, high, mask=wanted)
        tl.store(at + 2 * size, low, mask=wanted)


@triton.jit
def _codes(values_ptr, places_ptr, out_ptr, rows, width, value_stride, TILE: tl.constexpr):
    r = tl.program_id(0) * TILE + tl.arange(0, TILE)
    k = tl.program_id(1) * TILE + tl.arange(0, TILE)
    place = tl.load(places_ptr + k, mask=k < width, other=0)
    at = values_ptr + place[:, None] * value_stride + r[None, :]
    codes = tl.load(at, mask=(k < width)[:, None] & (r < rows)[None, :], other=0)
    at = out_ptr + r.to(tl.int64)[:, None] * width + k[None, :]
    tl.store(at, tl.trans(codes), mask=(r < rows)[:, None] & (k < width)[None, :])


def halves_of(pull: Tensor, size: int) -> Tensor:
    """halves (K, 3 size blocks) bf16, blocks = K / size, rounded up."""
    width, blocks = len(pull), triton.cdiv(len(pull), size)
    halves = torch.empty(width, 3 * blocks * size, dtype=torch.bfloat16, device=pull.device)
    grid = (triton.cdiv(width, ROWS), triton.cdiv(blocks * size, COLUMNS))
    launch(_halves, grid, pull, halves, width, halves.shape[1], size, ROWS=ROWS, COLUMNS=COLUMNS)
    return halves


def codes_of(values: Tensor, places: Tensor) -> Tensor:
    """codes (O, K) int8: column c is row places[c] of values. Shapes: values (K, O) int8, its rows lie at any distance;
    places (K,) int64."""
    width, rows = values.shape
    codes = torch.empty(rows, width, dtype=values.dtype, device=values.device)
    grid = (triton.cdiv(rows, TILE), triton.cdiv(width, TILE))
    launch(_codes, grid, values, places, codes, rows, width, values.stride(0), TILE=TILE)
    return codes
