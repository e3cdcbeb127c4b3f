"""Which token goes to which of a mixture's experts: pairs of a token and an expert, sorted by expert.

Nothing here waits for a GPU: where an expert's pairs end stays a tensor, which a grouped product takes as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Routes(NamedTuple):
    """pairs    (P,) places in the flattened (N, k) choice, sorted by expert; those of no expert come last
    tokens   (P,) the token of each
    ends     (E,) where each expert's end in `pairs`"""

    pairs: Tensor
    tokens: Tensor
    ends: Tensor

    @staticmethod
    def of(top_k_index: Tensor, experts: int) -> Routes:
        """top_k_index (N, k); an index past the last expert is none."""
        chosen, pairs = torch.sort(top_k_index.reshape(-1), stable=True)
        numbers = torch.arange(experts, device=chosen.device, dtype=chosen.dtype)
        return Routes(pairs, pairs // top_k_index.shape[-1], torch.searchsorted(chosen, numbers, right=True))

    @property
    def all_ends(self) -> Tensor:
        """`ends` with the pairs of no expert given to the last one: every row of a product is some expert's."""
        return torch.cat([self.ends[:-1], self.ends.new_full((1,), len(self.pairs))])

    def summed(self, y: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """For each token the sum over its experts' answers, weighed, (N, H); y (P, H) in the order of `pairs`. Pairs of
        no expert weigh nothing. In the wider of both types, the same every time: no two threads add to one number."""
        back = torch.empty_like(self.pairs).scatter_(0, self.pairs, torch.arange(len(self.pairs), device=y.device))
        wide = torch.promote_types(y.dtype, top_k_weights.dtype)
        weights = torch.where(top_k_index < len(self.ends), top_k_weights, 0).to(wide)
        answers = y[back].view(*top_k_index.shape, -1).to(wide)
        return torch.bmm(weights[:, None], answers)[:, 0]
