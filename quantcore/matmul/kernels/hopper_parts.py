"""Tiles that several programs share, on Hopper: each sums up some of the columns, and the last one to be done adds the
parts.

A program takes one piece of work after the other: whole tiles first, then those of the tiles that are split, so that
the last ones are short and all programs end at about the same time. `hopper_tiles` says how many tiles go whole. Each
group of warps counts for itself (`numbers.kernels.turns`): the last one reads all parts of its half of a tile, its own
as well, and adds them in the order of the splits. What is written in Triton's words here runs in Gluon's kernels, too.
"""

from __future__ import annotations

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@triton.jit
def piece_of(piece, whole, splits, blocks):
    """The tile of a piece, the first of its blocks of columns, and the one behind its last. `whole` tiles are a piece
    each, the others so many splits, as long as each other but for a block."""
    behind = max(piece - whole, 0)
    split = behind % splits
    shared = 1 if piece < whole else splits
    return min(piece, whole) + behind // splits, split * blocks // shared, (split + 1) * blocks // shared


@gluon.jit
def _by_thread(sums):
    """Sums of 64 rows, (8 columns x warps, a warp's 32 lanes, 4 numbers), as threads hold them: what neighbours write
    lies side by side."""
    columns: gl.constexpr = sums.shape[1] // 8
    return sums.reshape([4, 2, 8, columns, 4, 2]).permute([3, 0, 2, 4, 1, 5]).reshape([4 * columns, 32, 4])


@gluon.jit
def _by_row(held, like):
    """The same the other way round."""
    columns: gl.constexpr = like.shape[1] // 8
    sums = held.reshape([columns, 4, 8, 4, 2, 2]).permute([1, 4, 2, 0, 3, 5]).reshape(like.shape)
    return gl.convert_layout(sums, like.type.layout, assert_trivial=True)


@gluon.jit
def _places(held):
    """Of what `_by_thread` gives."""
    layout: gl.constexpr = held.type.layout
    side: gl.constexpr = gl.SliceLayout(2, layout)
    one = gl.arange(0, held.shape[0], gl.SliceLayout(1, side)).expand_dims(1)
    two = gl.arange(0, 32, gl.SliceLayout(0, side)).expand_dims(0)
    four = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(0, layout)))
    return (128 * one + 4 * two).expand_dims(2) + four.expand_dims(0).expand_dims(0)


@gluon.jit
def keep_part(parts_ptr, sums, part):
    """Write sums as one of the parts of this shape."""
    size: gl.constexpr = sums.shape[0] * sums.shape[1]
    held = _by_thread(sums)
    gl.store(parts_ptr + part * size + _places(held), held)


@gluon.jit
def sum_of_parts(parts_ptr, like, first, splits, APART: gl.constexpr):
    """Of parts `first`, `first` + APART and so on, each of the shape and layout of `like`."""
    size: gl.constexpr = like.shape[0] * like.shape[1]
    at = parts_ptr + first * size + _places(_by_thread(like))
    sums = gl.load(at, cache_modifier=".cg")
    for split in range(1, splits):
        sums += gl.load(at + split * APART * size, cache_modifier=".cg")
    return _by_row(sums, like)
