"""SmoothQuant's scales: one a channel, from what the channel reaches in the activations and in the weights.

    s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)            x_j / s_j,  w_j * s_j

With alpha = 0.5 both then reach sqrt(max|x_j| max|w_j|): a channel is as hard on one side as on the other. A channel
that is always 0, in activations or weights, keeps s = 1. Source: Xiao et al. 2022, arXiv:2211.10438, eq. 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-5  # of a scale, as in the authors' code


def smoothing_scales(reach: Tensor, weight_reach: Tensor, alpha: float) -> Tensor:
    """s, (K,) float32. reach: max|x_j| (K,); weight_reach: max|w_j| over all rows that read the channel, (K,)."""
    x, w = reach.float(), weight_reach.float()
    s = x.pow(alpha) / w.clamp(min=LEAST).pow(1 - alpha)
    return torch.where((x > 0) & (w > 0), s.clamp(min=LEAST), torch.ones_like(s))
