"""A histogram that can be laid over another: counts over [-reach, reach], reach a power of two.

Two tensors seldom have the same range, and two histograms compare only on the same edges. With reaches that are powers
of two and equally many bins, the bins of the one are whole runs of the other's: `on_reach` merges them exactly, so a
histogram is counted once and never again from the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 4096
LEAST_REACH = 2.0**-60


@dataclass(frozen=True, eq=False)
class Histogram:
    """counts (n,), float64 on the CPU, n a power of two; edge i lies at reach * (2 i / n - 1)."""

    counts: Tensor
    reach: float

    @property
    def edges(self) -> Tensor:
        """Shape (n + 1,), float32: the bins' borders, in the unit of the values."""
        return torch.linspace(-1, 1, len(self.counts) + 1, dtype=torch.float64).mul(self.reach).float()

    def on_reach(self, reach: float) -> Histogram:
        """The same values over [-reach, reach], in as many bins. Raises: ValueError for a smaller reach."""
        if reach < self.reach:
            raise ValueError(
                f"a histogram over {self.reach:g} cannot be laid over {reach:g}; give at least its own reach"
            )
        return Histogram(merge_outward(self.counts, round(math.log2(reach / self.reach))), reach)

    def coarsened(self, bins: int) -> Histogram:
        """The same range in `bins` bins, a power of two that is at most what there are."""
        return Histogram(self.counts.view(bins, -1).sum(-1), self.reach)


def histogram(values: Tensor, bins: int = BINS) -> Histogram:
    """Count finite values of any shape over the least power of two that holds them all."""
    values = values.detach().float().flatten()
    largest = max(abs(float(end)) for end in torch.aminmax(values)) if values.numel() else 0.0
    reach = max(LEAST_REACH, 2.0 ** math.ceil(math.log2(largest))) if largest else LEAST_REACH
    half = bins // 2
    bin_of = values.mul(half / reach).floor_().clamp_(max=half - 1)  # a power of two: exact, unlike torch.histc
    return Histogram(torch.bincount(bin_of.add_(half).int(), minlength=bins).cpu().double(), reach)


def merge_outward(counts: Tensor, doublings: int) -> Tensor:
    """Counts (n,) after the reach has doubled so often: 2^doublings bins are one, the outer ones empty. Shape (n,)."""
    merged = 2 ** min(doublings, int(math.log2(len(counts))) - 1)
    inner = counts.view(-1, merged).sum(-1)
    wider = torch.zeros_like(counts)
    start = (len(counts) - len(inner)) // 2
    wider[start : start + len(inner)] = inner
    return wider
