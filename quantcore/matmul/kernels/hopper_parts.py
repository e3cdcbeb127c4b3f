"""Tiles that several programs share, on Hopper: each sums up some of the columns, and a second kernel adds the parts.

A program takes one piece of work after the other: whole tiles first, then those of the tiles that are split, so that
the last ones are short and all programs end at about the same time. `hopper_tiles` says how many tiles go whole. What
is written in Triton's words here runs in Gluon's kernels, too.
"""

from __future__ import annotations

import triton
import triton.language as tl
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
def keep_part(parts_ptr, sums, row, column, WIDTH: gl.constexpr):
    """Write sums where parts, of WIDTH columns, have this row and column."""
    rows = row + gl.arange(0, sums.shape[0], gl.SliceLayout(1, sums.type.layout))
    columns = column + gl.arange(0, sums.shape[1], gl.SliceLayout(0, sums.type.layout))
    gl.store(parts_ptr + (rows * WIDTH).expand_dims(1) + columns.expand_dims(0), sums)


@triton.jit
def sum_of_parts(
    parts_ptr, splits, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Of a split tile, the program's first number, the rows and columns that its second and third say, and the sum of
    their parts, each HEIGHT x WIDTH, in the order of its splits."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    at = parts_ptr + tl.program_id(0) * splits * (HEIGHT * WIDTH) + rows[:, None] * WIDTH + columns[None, :]
    sums = tl.load(at)
    for split in range(1, splits):
        sums += tl.load(at + split * (HEIGHT * WIDTH))
    return rows, columns, sums
