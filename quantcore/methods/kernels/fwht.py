"""The fast Walsh-Hadamard transform on a GPU: each row is read and written once.

A row of n = a b numbers is a matrix X of a x b, and Sylvester's matrix of n is H_a (x) H_b: the row becomes H_a X H_b.
Both are products by +1 and -1 on tensor cores, exact but for their sums in float32. Between the two the numbers are
rounded to the row's own type, as they are once more at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_SIDE = 128  # of a and b
WARPS = 4


@triton.jit
def _kernel(x, out, scale, A: tl.constexpr, B: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * (A * B)
    down, across = tl.arange(0, A), tl.arange(0, B)
    places = row + down[:, None] * B + across[None, :]
    values = tl.load(x + places)
    halfway = tl.dot(values, _signs(across, across, values.dtype)).to(values.dtype)
    done = tl.dot(_signs(down, down, values.dtype), halfway)
    tl.store(out + places, (done * scale).to(values.dtype))


@triton.jit
def _signs(rows, columns, dtype: tl.constexpr):
    """Sylvester's matrix: -1 where rows and columns share an odd number of ones in their binary digits."""
    shared = rows[:, None] & columns[None, :]
    shared ^= shared >> 4
    shared ^= shared >> 2
    shared ^= shared >> 1
    return (1 - 2 * (shared & 1)).to(dtype)


def sides(width: int) -> tuple[int, int]:
    """a and b of a row, powers of two, each from 16 to MOST_SIDE."""
    exponent = width.bit_length() - 1
    across = min(MOST_SIDE, 1 << (exponent + 1) // 2)
    return width // across, across


def fwht(x: Tensor) -> Tensor:
    """x H / sqrt(n) of every row; x (rows, n) in bfloat16 or float16, n a power of two from 256 to 16384."""
    rows, width = x.shape
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    if rows:
        down, across = sides(width)
        _kernel[(rows,)](x, out, width**-0.5, A=down, B=across, num_warps=WARPS if width <= 8192 else 8)
    return out
