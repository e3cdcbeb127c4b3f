"""Fast Walsh-Hadamard transform: x H / sqrt(n) in n log2(n) additions, or as a few small products; no matrix of n x n.

    (a, b) -> (a + b, a - b)        between numbers that are 1, 2, 4 ... n / 2 apart

H is Sylvester's. A width such as 14336 = 64 * 224 is a Kronecker product: numbers 224 apart go together as above, and
224 neighbours by Paley's matrix. On a GPU a Triton kernel reads and writes each row once (`kernels.fwht`).
Source: Fino and Algazi 1976; as an online rotation: Ashkboos et al. 2024, arXiv:2404.00456, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.methods.transforms.hadamard import factors, hadamard
from quantcore.numbers.kernels.triton_here import has_triton

KERNEL_WIDTHS = range(256, 16385)  # powers of two among them


def turned(x: Tensor, width: int) -> Tensor:
    """x (..., K) with each `width` neighbours turned by the Hadamard matrix of that width; it undoes itself. Worked out
    in float32 (float64 where x is) and rounded to x's type.

    Raises: ValueError for a width without a known matrix, or that does not divide K."""
    if x.shape[-1] % width:
        raise ValueError(f"blocks of {width} do not divide {x.shape[-1]} channels; use a block that does")
    orders = factors(width)
    if orders == [width] and takes_kernel(x, width):
        from quantcore.methods.kernels.fwht import fwht

        found: Tensor = fwht(x.reshape(-1, width)).view(x.shape)
        return found
    work = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    blocks = work.reshape(-1, *orders)
    for place, order in enumerate(orders, start=1):
        blocks = _along(blocks.movedim(place, -1), order).movedim(-1, place)
    scaled: Tensor = blocks.reshape(x.shape) / width**0.5
    return scaled.to(x.dtype)


def takes_kernel(x: Tensor, width: int) -> bool:
    """Whether the Triton kernel works on such a tensor."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and width in KERNEL_WIDTHS and has_triton()


def _along(x: Tensor, order: int) -> Tensor:
    """x (..., order) times the Hadamard matrix of that order, not divided by its length."""
    if order & (order - 1):
        return x @ hadamard(order).to(x)
    apart = 1
    while apart < order:
        pairs = x.reshape(*x.shape[:-1], order // (2 * apart), 2, apart)
        one, other = pairs.unbind(-2)
        x = torch.stack([one + other, one - other], -2).reshape(x.shape)
        apart *= 2
    return x
