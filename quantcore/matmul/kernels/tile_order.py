"""In which order a product's tiles are computed. What is in Triton's words here runs in Gluon's kernels, too."""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = 8  # tiles of one operand that all of the other are multiplied by in turn


@triton.jit
def place(tile, tiles_n, tiles_t, GROUP: tl.constexpr):
    """Tile number to (n, t), in groups of GROUP token tiles, so that neighbours in time share operands in the cache."""
    a_group = GROUP * tiles_n
    first = (tile // a_group) * GROUP
    size = min(tiles_t - first, GROUP)
    within = tile % a_group
    return within // size, first + within % size
