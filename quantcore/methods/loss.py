"""What a layer's outputs lose by its codes: sum over rows of e H e^T = |X e^T|^2, e = weight - quantized, H = X^T X.

On a GPU a float32 product of this size takes as long as the whole of GPTQ, so it is made of bf16 halves (see
`numbers.products`); H is symmetric, so each pair of columns is multiplied once and counts twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.numbers.products import Halves, product_of_halves

PANEL = 2048  # columns of H that are multiplied at once on a GPU


def output_loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> Tensor:
    """The loss as a float64 scalar on the device, which nobody waited for. Shapes: (O, K), (O, K), (K, K)."""
    error = weight.float() - quantized.float()
    if not error.is_cuda:
        return ((error @ hessian) * error).sum(dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64, device=error.device)
    halves = Halves.of(error)
    for start in range(0, len(hessian), PANEL):
        columns = hessian[start:, start : start + PANEL].clone()
        columns[PANEL:] *= 2
        product = product_of_halves(halves.columns(start), Halves.of(columns))
        total += (product * error[:, start : start + PANEL]).sum(dtype=torch.float64)
    return total
