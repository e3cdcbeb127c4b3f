"""How a product on Hopper is shared among its multiprocessors.

Programs take one tile after the other, so where there is no whole number of tiles a program, those that have one less
wait at the end. `cut` splits the columns of the tiles that are left for the end, where that saves more than writing and
adding the parts costs. The tiles of `hopper_low_bit` are what was quickest on an H200, Llama-3-8B's shapes.
"""

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
BLOCK_US, TOKEN_US = 0.2, 0.005  # what a block of a tile takes of `hopper_low_bit`, and each of its tokens
CODES_US, ROW_US = 0.26, 0.0025  # what one of a tile of `hopper_codes` takes, and each of the tile's rows of R
NARROWEST, NARROW, WIDE = 32, 128, 256  # rows of R: of `hopper_narrow` from and to, and of `hopper_codes`
NARROW_FROM = {"int4": 17, "int8": 65, "fp8": 65, "blocks": 33}  # tokens with which narrow tiles are the quickest
ADD_US = 3.0  # what adding parts takes at least
PARTS_BYTES_US = 4e6  # bytes of parts that are written, or read, in a microsecond


class Tile(NamedTuple):
    """How a product is shared: tokens of a tile, teams of a program, splits of K; tiles that go first, and whole."""

    tokens: int
    teams: int
    splits: int = 1
    whole: int = 0


@lru_cache(4096)  # asked twice for each product
def tile_for(tokens: int, out: int, width: int, programs: int) -> Tile | None:
    """The quickest on an H200 of `programs` multiprocessors; None where another kernel is: with few rows, or where few
    tokens and few columns leave little to a split."""
    blocks, rows = triton.cdiv(width, BLOCK), triton.cdiv(out, BLOCK_N)
    block_t = min(256, max(16, triton.next_power_of_2(tokens)))
    tiles = rows * triton.cdiv(tokens, block_t)
    splits, whole = _splits(tiles, blocks, programs, LONG if block_t == 256 else SHORT), 0
    if block_t == 256 and 4 * splits * tiles < 3 * programs:
        block_t, tiles = 128, rows * triton.cdiv(tokens, 128)
        splits = _splits(tiles, blocks, programs, SHORT)
    if out <= FEWEST_ROWS or (tokens <= BARE_TOKENS and blocks // splits < 2 * SHORT):
        return None
    if tiles > programs:
        splits, whole = cut(tiles, blocks, programs, BLOCK_US + TOKEN_US * block_t, BLOCK_N * block_t)
    return Tile(block_t, 2 if tokens <= TEAM_TOKENS else 1, splits, whole)


def width_for(tokens: int, out: int, kind: str, programs: int) -> int:
    """Rows of R in the tiles of codes that are the quickest. Narrow ones of tokens have room for all of them, where
    that is not too many; those of a weight whose blocks have scales have one block's. Of tiles that are not to be
    narrower than 128 for that, the narrow ones are quicker as long as all are multiplied at once; those of fp8, which
    torch multiplies quickly where rows are many, where few tiles are split."""
    tiles = triton.cdiv(out, BLOCK_N) * triton.cdiv(tokens, NARROW)
    at_once = programs // 2 if kind == "fp8" else programs
    if tokens < NARROW_FROM[kind] or (tiles > at_once and (tokens > NARROW or kind in ("fp8", "blocks"))):
        return WIDE
    return NARROW if kind == "blocks" else min(NARROW, max(NARROWEST, triton.next_power_of_2(tokens)))


def _splits(tiles: int, blocks: int, programs: int, least: int) -> int:
    """As many as give each multiprocessor a tile, of at least `least` blocks."""
    splits = 1
    while 2 * splits * tiles <= programs and blocks // (2 * splits) >= least:
        splits *= 2
    return splits


@lru_cache(4096)
def cut(tiles: int, blocks: int, programs: int, block_us: float, part: int) -> tuple[int, int]:
    """The splits of what tiles are left when all programs have had as many, and how many tiles that is, which go whole;
    (1, 0) where splitting them does not pay. A part is so many sums."""
    whole = tiles // programs * programs
    left = tiles - whole

    def takes_us(splits: int) -> float:
        adding = ADD_US + 2 * left * splits * part * 4 / PARTS_BYTES_US if splits > 1 else 0.0
        return triton.cdiv(left * splits, programs) * triton.cdiv(blocks, splits) * block_us + adding

    splits = min(range(1, max(1, blocks // SHORT) + 1), key=takes_us)
    return (splits, whole) if splits > 1 else (1, 0)
