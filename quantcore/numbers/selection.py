"""The k-th smallest of many numbers, exact: what percentiles and colour limits ask for."""

from __future__ import annotations

from torch import Tensor


def kth_smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest number, k from 1, along the last dimension: (..., n) -> (..., 1).

    On a GPU `kthvalue` leaves a row to one multiprocessor, however long the row is; `topk` shares it among all."""
    return nearest_end(x, k) if x.is_cuda else x.kthvalue(k, -1, keepdim=True).values


def nearest_end(x: Tensor, k: int) -> Tensor:
    """The same as the last of those that are nearer to its end: k smallest, or n + 1 - k largest."""
    above = x.shape[-1] + 1 - k
    if k < above:
        return x.topk(k, -1, largest=False, sorted=False).values.amax(-1, keepdim=True)
    return x.topk(above, -1, sorted=False).values.amin(-1, keepdim=True)
