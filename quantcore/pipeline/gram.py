"""X^T X of a layer's inputs, summed over batches: the Hessian of its error, up to a factor that changes no code.

Each product of 16-bit inputs is exact and only sums round, so a GPU's tensor cores take them as they are and sum in
float32. X^T X is symmetric: of every panel of columns only what lies on and to the right of the diagonal is summed, the
rest is its mirror. Source: Frantar et al. 2022, arXiv:2210.17323, section 3.2 (without its factor 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_GRAM = 256  # columns whose Hessian a CPU takes in one product
GPU_PANEL = 1024  # columns: the quickest on an H200 for 4096 and for 14336 in all


class Gram:
    """X^T X, (K, K) float32, summed over batches of inputs (..., K)."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._stairs = False

    def add(self, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1])
        self._stairs = rows.is_cuda and rows.dtype in (torch.bfloat16, torch.float16)
        if not self._stairs:
            gram = gram_of(rows)
            self._sum = gram if self._sum is None else self._sum.add_(gram)
            return
        width = rows.shape[1]
        if self._sum is None:
            self._sum = torch.zeros(width, width, device=rows.device)
        for start in range(0, width, GPU_PANEL):
            stair = self._sum[start : start + GPU_PANEL, start:]
            panel = rows[:, start : start + GPU_PANEL].T
            torch.addmm(stair, panel, rows[:, start:], out_dtype=torch.float32, out=stair)

    @property
    @torch.inference_mode()
    def total(self) -> Tensor:
        """Raises: ValueError before the first batch."""
        if self._sum is None:
            raise ValueError("no batch was observed, so there is no Hessian; calibrate over some text first")
        if self._stairs:
            for start in range(0, len(self._sum), GPU_PANEL):
                end = start + GPU_PANEL
                self._sum[end:, start:end] = self._sum[start:end, end:].T
        return self._sum


def gram_of(x: Tensor) -> Tensor:
    """X^T X of one batch of inputs, (..., K) -> (K, K) float32."""
    rows = x.detach().reshape(-1, x.shape[-1])
    if rows.is_cuda and rows.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(rows.T, rows, out_dtype=torch.float32)
    gram = torch.empty(rows.shape[1], rows.shape[1], device=rows.device)
    _fill_gram(gram, rows.float())
    return gram


def _fill_gram(gram: Tensor, rows: Tensor) -> None:
    """Of the four quarters the one below the diagonal is the other's transpose."""
    width = len(gram)
    if rows.is_cuda or width <= LEAST_GRAM:
        torch.mm(rows.T, rows, out=gram)
        return
    left, right = slice(0, width // 2), slice(width // 2, width)
    _fill_gram(gram[left, left], rows[:, left])
    _fill_gram(gram[right, right], rows[:, right])
    torch.mm(rows[:, left].T, rows[:, right], out=gram[left, right])
    gram[right, left] = gram[left, right].T
