"""The fast Walsh-Hadamard transform on a GPU: each row is read and written once.

A row of n = 2^l a b numbers is 2^l matrices X of a x b; Sylvester's matrix of n is H_2 (x) .. (x) H_2 (x) H_a (x) H_b.
Tensor cores make H_a X of each: products by +1 and -1, exact but for their sums in float32. Sums and differences of
these matrices, in float32 still, are the l times H_2. Then tensor cores multiply by H_b. Before that product numbers
are rounded to the row's own type, as they are once more at the end; half of the scale, a power of two, stands in H_a,
so that none is larger there than the row's norm: float16 must hold it.

Narrow rows lie one below the other until they are SIDE high, and H_a stands once for each on the diagonal. H_a and H_b
are made once a program, which then goes from tile to tile while the next ones are on their way. Beyond WIDE numbers b
is halved, which leaves shared memory for a second program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.kernels.launch import launch

SIDE = tl.constexpr(64)  # a tile's height: what the tensor cores take at once
WIDE = 8192  # numbers of a row, beyond which b is 32


@triton.jit(do_not_specialize=["lines", "tiles"])
def _kernel(
    x,
    out,
    lines,  # of B numbers, in all rows
    tiles,
    halfway_scale,
    scale,
    A: tl.constexpr,
    B: tl.constexpr,
    LEVELS: tl.constexpr,  # l
    STAGES: tl.constexpr,
):
    down, side, across = tl.arange(0, SIDE), tl.arange(0, B << LEVELS), tl.arange(0, B)
    below = tl.arange(0, SIDE << LEVELS)
    dtype: tl.constexpr = x.dtype.element_ty
    left = tl.where(down[:, None] // A == down[None, :] // A, _signs(down % A, down % A), 0.0) * halfway_scale
    left, right = left.to(dtype), _signs(across, across).to(dtype)
    read = down[:, None] * B + (side // B * (SIDE * B) + side % B)[None, :]  # a row's matrices, side by side
    written = below[:, None] * B + across[None, :]  # one below the other
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        line = tile * (SIDE << LEVELS)
        start = line.to(tl.int64) * B
        values = tl.load(x + start + read, mask=(line + down < lines)[:, None] | (LEVELS > 0), other=0.0)
        halfway = _joined(tl.dot(left, values), B, LEVELS).to(dtype)
        turned = (tl.dot(halfway, right) * scale).to(dtype)
        tl.store(out + start + written, turned, mask=(line + below < lines)[:, None] | (LEVELS > 0))


@triton.jit
def _joined(x, B: tl.constexpr, LEVELS: tl.constexpr):
    """Sums and differences of matrices side by side, one below the other. No number leaves its thread."""
    for _ in tl.static_range(LEVELS):
        one, other = tl.split(tl.permute(tl.reshape(x, [SIDE, 2, B << LEVELS >> 1]), [0, 2, 1]))
        x = tl.reshape(tl.join(one + other, one - other), [SIDE, B << LEVELS])
    return tl.reshape(tl.permute(tl.reshape(x, [SIDE, B, 1 << LEVELS]), [2, 0, 1]), [SIDE << LEVELS, B])


@triton.jit
def _signs(rows, columns):
    """Sylvester's matrix: -1 where rows and columns share an odd number of ones in their binary digits."""
    shared = rows[:, None] & columns[None, :]
    shared ^= shared >> 4
    shared ^= shared >> 2
    shared ^= shared >> 1
    return 1.0 - 2.0 * (shared & 1)


def fwht(x: Tensor) -> Tensor:
    """x H / sqrt(n) of every row; x (rows, n) in bfloat16 or float16, n a power of two from 256 to 16384."""
    rows, width = x.shape
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    if rows:
        height, across = SIDE.value, 64 if width <= WIDE else 32
        lines, matrices = x.numel() // across, max(1, width // (height * across))
        tiles, terms = triton.cdiv(lines, height * matrices), width // across
        halfway = 2.0 ** -(terms.bit_length() // 2)
        launch(
            _kernel, (min(tiles, _programs(x)),), x, out, lines, tiles, halfway, width**-0.5 / halfway,
            A=min(height, terms), B=across, LEVELS=matrices.bit_length() - 1, STAGES=3, num_warps=4,
        )  # fmt: skip
    return out


def _programs(x: Tensor) -> int:
    """As many as a GPU runs at once, or more."""
    if not x.is_cuda:
        return 2
    return 4 * torch.cuda.get_device_properties(x.device).multi_processor_count
