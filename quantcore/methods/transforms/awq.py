"""AWQ's scales: from the mean size of each channel's inputs and weights, by a grid search on what the output loses.

    s_j = mean|x_j|^r / (m_j^(1 - r) + 1e-4),  s / sqrt(max(s) min(s))         r = 0, 1/18, ... 1; and s = 1

m_j is the mean of |w| over rows, each tile's weights divided by its largest (`weight_means`). Channels that carry large
inputs are multiplied before they are rounded, so that rounding costs them less; the others pay a little. Which r is
best is tried, since nothing says it beforehand: the tile's scale is the largest weight's, and grows with s. s is in
float64, as it is there: a symmetric scale, absmax / 7.5, puts the largest weight just between two codes, and the last
digit says which of them it gets.

Sources: Lin et al. 2023, arXiv:2306.00978, section 3.2; m_j and the grid as in AutoAWQ and llm-compressor 0.14.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantcore.numbers.spec import QuantSpec

RATIOS = 19
LEAST = 1e-4


def weight_means(weights: Sequence[tuple[Tensor, QuantSpec]]) -> Tensor:
    """m, (K,) float64: over all rows of the weights (O, K), each by its spec's tiles."""
    total, rows = torch.zeros(weights[0][0].shape[1], dtype=torch.float64, device=weights[0][0].device), 0
    for weight, spec in weights:
        high, wide = spec.granularity.tile(weight.shape)
        rows_of, columns_of = weight.shape[0] // high, weight.shape[1] // wide
        tiles = weight.float().abs().reshape(rows_of, high, columns_of, wide)
        sized = tiles / (tiles.amax((1, 3), keepdim=True) + 1e-6)
        total += sized.flatten(2, 3).flatten(0, 1).sum(0, dtype=torch.float64)
        rows += len(weight)
    return total / rows


def candidates(x_mean: Tensor, w_mean: Tensor) -> Tensor:
    """The scales that are tried, (1 + RATIOS, K) float64: none, then every ratio."""
    ratios = [step / (RATIOS - 1) for step in range(RATIOS)]
    found = torch.stack([x_mean.pow(one) / (w_mean.pow(1 - one) + LEAST) for one in ratios]).clamp(min=LEAST)
    found = found / (found.amax(1, keepdim=True) * found.amin(1, keepdim=True)).sqrt()
    return torch.cat([torch.ones_like(found[:1]), torch.where(found.isfinite(), found, 1.0)])
