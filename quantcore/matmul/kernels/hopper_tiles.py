"""How a product of `hopper_low_bit` is shared: by what was quickest on an H200, Llama-3-8B's shapes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton

from quantcore.matmul.kernels.low_bit_weight import BLOCK

BLOCK_N = 128
BARE_TOKENS = 32  # up to here sums of a block are scaled, beyond them weights
TEAM_TOKENS = 64  # up to here two teams
SHORT, LONG = 8, 20  # blocks of a split, at least; of one for 256 tokens, whose sums take longer to add
FEWEST_ROWS = 2048  # of a weight; up to so many there are too few tiles


class Tile(NamedTuple):
    """How a product is shared: tokens of a tile, teams of a program, splits of K."""

    tokens: int
    teams: int
    splits: int


@lru_cache(4096)  # asked twice for each product
def tile_for(tokens: int, out: int, width: int, programs: int) -> Tile | None:
    """The quickest on an H200 of `programs` multiprocessors; None where another kernel is: with few rows, or where few
    tokens and few columns leave little to a split."""
    blocks, rows = triton.cdiv(width, BLOCK), triton.cdiv(out, BLOCK_N)
    block_t = min(256, max(16, triton.next_power_of_2(tokens)))
    tiles = rows * triton.cdiv(tokens, block_t)
    splits = _splits(tiles, blocks, programs, LONG if block_t == 256 else SHORT)
    if block_t == 256 and 4 * splits * tiles < 3 * programs:
        block_t, tiles = 128, rows * triton.cdiv(tokens, 128)
        splits = _splits(tiles, blocks, programs, SHORT)
    if out <= FEWEST_ROWS or (tokens <= BARE_TOKENS and blocks // splits < 2 * SHORT):
        return None
    return Tile(block_t, 2 if tokens <= TEAM_TOKENS else 1, splits)


def _splits(tiles: int, blocks: int, programs: int, least: int) -> int:
    """As many as give each multiprocessor a tile, of at least `least` blocks."""
    splits = 1
    while 2 * splits * tiles <= programs and blocks // (2 * splits) >= least:
        splits *= 2
    return splits
