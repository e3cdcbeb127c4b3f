"""What a layer's outputs lose by its codes: sum over rows of e H e^T = |X e^T|^2, e = weight - quantized, H = X^T X.

On a GPU a float32 product of this size takes as long as the whole of GPTQ. There each factor is the sum of two bf16
numbers, a = a1 + a2, exact to 16 bits, and a b = a1 b1 + a1 b2 + a2 b1 on the tensor cores, summed in float32; H is
symmetric, so each pair of columns is multiplied once and counts twice. The relative error is about 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor

PANEL = 2048  # columns of H that are multiplied at once on a GPU


def output_loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> Tensor:
    """The loss as a float64 scalar on the device, which nobody waited for. Shapes: (O, K), (O, K), (K, K)."""
    error = weight.float() - quantized.float()
    if not error.is_cuda:
        return ((error @ hessian) * error).sum(dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64, device=error.device)
    high, low = _halves(error)
    for start in range(0, len(hessian), PANEL):
        columns = hessian[start:, start : start + PANEL].clone()
        columns[PANEL:] *= 2
        columns_high, columns_low = _halves(columns)
        product = torch.mm(high[:, start:], columns_high, out_dtype=torch.float32)
        for a, b in ((high, columns_low), (low, columns_high)):
            product = torch.addmm(product, a[:, start:], b, out_dtype=torch.float32)
        total += (product * error[:, start : start + PANEL]).sum(dtype=torch.float64)
    return total


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    high = x.bfloat16()
    return high, (x - high.float()).bfloat16()
