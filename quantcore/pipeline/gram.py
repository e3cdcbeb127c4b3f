"""X^T X of a layer's inputs, summed over batches: the Hessian of its error, up to a factor that changes no code.

Each product of 16-bit inputs is exact and only sums round, so a GPU's tensor cores take them as they are and sum in
float32. X^T X is symmetric: of every panel of columns only what lies on and to the right of the diagonal is summed, the
rest is its mirror. Source: Frantar et al. 2022, arXiv:2210.17323, section 3.2 (without its factor 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantcore.numbers.kernels.triton_here import has_triton

MIRRORED = 128  # columns at a time; the kernel's tile, or a multiple of it

LEAST_GRAM = 256  # columns whose Hessian a CPU takes in one product
GPU_PANEL = 1024  # columns: the quickest on an H200 for 4096 and for 14336 in all


class Gram:
    """X^T X, (K, K) float32, summed over batches of inputs (..., K)."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._stairs = False

    def add(self, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1])
        self._stairs = _on_tensor_cores(rows)
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


class ExpertGrams:
    """X^T X of what enters each of some experts, (n, K, K) float32, summed over batches (P, K) sorted by expert; and
    over how many rows."""

    def __init__(self, numbers: Sequence[int]) -> None:
        """numbers: of the experts that are asked for."""
        self.numbers = list(numbers)
        self._which: Tensor | None = None
        self._sums: Tensor | None = None
        self._rows: Tensor | None = None

    def add(self, x: Tensor, ends: Tensor) -> None:
        """ends (E,): where each expert's rows end, for all experts of the module. On a GPU nothing waits for it."""
        x = x.detach()
        if self._sums is None:
            width = x.shape[1]
            self._sums = torch.zeros(len(self.numbers), width, width, device=x.device)
            self._which = torch.tensor(self.numbers, device=x.device)
            self._rows = torch.zeros(len(self.numbers), dtype=torch.int64, device=x.device)
        assert self._which is not None
        assert self._rows is not None
        self._rows += torch.diff(ends, prepend=ends.new_zeros(1))[self._which]
        if _on_tensor_cores(x) and has_triton():
            from quantcore.numbers.kernels.grams import add_grams

            add_grams(x.contiguous(), ends, self._which, self._sums)
            return
        stops = [0, *ends.tolist()]
        for place, number in enumerate(self.numbers):
            self._sums[place] += gram_of(x[stops[number] : stops[number + 1]])

    @torch.inference_mode()
    def totals(self) -> dict[int, tuple[Tensor, int]]:
        """By its number, the sum and the rows of each expert that had any. Here is waited for the GPU."""
        if self._sums is None or self._rows is None:
            return {}
        for start in range(0, self._sums.shape[1], MIRRORED):
            end = start + MIRRORED
            self._sums[:, end:, start:end] = self._sums[:, start:end, end:].mT
        counts = self._rows.tolist()
        found = zip(self.numbers, self._sums.unbind(), counts, strict=True)
        return {number: (total, count) for number, total, count in found if count}


def _on_tensor_cores(rows: Tensor) -> bool:
    """Whether a GPU multiplies the numbers as they are: products of 16-bit ones are exact, and only sums round."""
    return rows.is_cuda and rows.dtype in (torch.bfloat16, torch.float16)


def drift_of(x: Tensor, wanted: Tensor) -> Tensor:
    """X~^T (X - X~) of one batch, (K, K) float32; x the inputs as they are, X~, and `wanted` as they should be, X."""
    rows, apart = x.detach().flatten(0, -2), (wanted.detach() - x.detach()).flatten(0, -2)
    if _on_tensor_cores(rows):
        return torch.mm(rows.T, apart, out_dtype=torch.float32)
    return rows.float().T @ apart.float()


def gram_of(x: Tensor) -> Tensor:
    """X^T X of one batch of inputs, (..., K) -> (K, K) float32."""
    rows = x.detach().reshape(-1, x.shape[-1])
    if _on_tensor_cores(rows):
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
