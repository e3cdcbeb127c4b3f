"""Vectors side by side as a matrix, and a matrix as its columns: Triton has no index into a tensor."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def stacked(parts):
    """(n, len(parts)) of tensors of n elements; their number is a power of 2."""
    count: tl.constexpr = len(parts)
    size: tl.constexpr = parts[0].numel
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
    return _halved((tl.reshape(matrix, [matrix.shape[0], 2, 2, 2, 2]),), 4)


@triton.jit
def thirty_two(matrices):
    """The columns of matrices (m, n, 32), each (m, n)."""
    return _halved((tl.reshape(matrices, [matrices.shape[0], matrices.shape[1], 2, 2, 2, 2, 2]),), 5)


@triton.jit
def _halved(parts, TIMES: tl.constexpr):
    for _ in tl.static_range(TIMES):
        even = ()
        odd = ()
        for i in tl.static_range(len(parts)):
            left, right = tl.split(parts[i])
            even = even + (left,)
            odd = odd + (right,)
        parts = even + odd
    return parts
