"""Vectors side by side as a matrix, and a matrix as its columns: Triton has no index into a tensor."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def stacked(parts):
    """(n, len(parts)) of tensors (n,); their number is a power of 2."""
    count: tl.constexpr = len(parts)
    size: tl.constexpr = parts[0].shape[0]
    for _ in tl.static_range(7):
        if len(parts) > 1:
            pairs = ()
            for i in tl.static_range(len(parts) // 2):
                pairs = pairs + (tl.join(parts[i], parts[i + len(parts) // 2]),)
            parts = pairs
    return tl.reshape(parts[0], [size, count])


@triton.jit
def sixteen(matrix):
    """The columns of a matrix (n, 16), each (n,)."""
    parts = (tl.reshape(matrix, [matrix.shape[0], 2, 2, 2, 2]),)
    for _ in tl.static_range(4):
        even = ()
        odd = ()
        for i in tl.static_range(len(parts)):
            left, right = tl.split(parts[i])
            even = even + (left,)
            odd = odd + (right,)
        parts = even + odd
    return parts
