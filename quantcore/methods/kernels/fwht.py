"""The fast Walsh-Hadamard transform on a GPU: each row is read and written once.

A row of n = a b numbers is a matrix X of a x b, and Sylvester's matrix of n is H_a (x) H_b: the row becomes H_a X H_b.
Both are products by +1 and -1 on tensor cores, exact but for their sums in float32. Between the two the numbers are
rounded to the row's own type, as they are once more at the end; half of the scale, a power of two, is multiplied there,
so that float16 does not overflow where the row does not.

Narrow rows lie one below the other until they are TALL, and H_a stands once for each on the diagonal. The matrices are
made once a program, which then goes from tile to tile while the next ones are on their way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.kernels.launch import launch

TALL = 64  # rows of a tile at least: what the tensor cores take at once
MOST_SIDE = 128  # of a and b
LEAST_SIDE = 64  # of b
A_MULTIPROCESSOR = 4  # programs


@triton.jit(do_not_specialize=["count", "tiles"])
def _kernel(
    x,
    out,
    count,  # rows of a tile's matrices in all
    tiles,
    halfway_scale,
    scale,
    A: tl.constexpr,
    B: tl.constexpr,
    HIGH: tl.constexpr,
    STAGES: tl.constexpr,
):
    down, across = tl.arange(0, HIGH), tl.arange(0, B)
    dtype: tl.constexpr = x.dtype.element_ty
    left = _signs(down % A, down % A, dtype)
    if A < HIGH:
        left = tl.where(down[:, None] // A == down[None, :] // A, left, 0.0).to(dtype)
    right = _signs(across, across, dtype)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        line = (tile * HIGH + down).to(tl.int64)
        places = line[:, None] * B + across[None, :]
        inside = (line < count)[:, None]
        values = tl.load(x + places, mask=inside, other=0.0)
        halfway = (tl.dot(left, values) * halfway_scale).to(dtype)
        tl.store(out + places, (tl.dot(halfway, right) * scale).to(dtype), mask=inside)


@triton.jit
def _signs(rows, columns, dtype: tl.constexpr):
    """Sylvester's matrix: -1 where rows and columns share an odd number of ones in their binary digits."""
    shared = rows[:, None] & columns[None, :]
    shared ^= shared >> 4
    shared ^= shared >> 2
    shared ^= shared >> 1
    return (1 - 2 * (shared & 1)).to(dtype)


def sides(width: int) -> tuple[int, int]:
    """a and b of a row, powers of two."""
    exponent = width.bit_length() - 1
    across = min(MOST_SIDE, max(LEAST_SIDE, 1 << (exponent + 1) // 2))
    return width // across, across


def fwht(x: Tensor) -> Tensor:
    """x H / sqrt(n) of every row; x (rows, n) in bfloat16 or float16, n a power of two from 256 to 16384."""
    rows, width = x.shape
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    if rows:
        down, across = sides(width)
        high = max(TALL, down)
        count, halfway = rows * down, 2.0 ** -((down.bit_length() - 1) // 2)
        tiles = triton.cdiv(count, high)
        launch(
            _kernel, (min(tiles, _programs(x)),), x, out, count, tiles, halfway, width**-0.5 / halfway,
            A=down, B=across, HIGH=high, STAGES=3, num_warps=8 if high * across > 8192 else 4,
        )  # fmt: skip
    return out


def _programs(x: Tensor) -> int:
    """As many as a GPU runs at once."""
    if not x.is_cuda:
        return 2
    return A_MULTIPROCESSOR * torch.cuda.get_device_properties(x.device).multi_processor_count
