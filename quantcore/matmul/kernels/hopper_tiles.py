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
BARE_TOKENS = 128  # of a tile; up to here sums of a block are scaled, beyond them weights
TEAM_TOKENS = 32  # up to here two teams, and splits twice as long
SHORT = 8  # blocks of a split, at least
FEWEST_ROWS = 2048  # of a weight; up to so many there are too few tiles for few tokens
MIDDLE_TOKENS = 1024  # up to here tiles of at most 128 tokens are quicker than those of 256
MIDDLE_ZEROS = 512  # and of a weight with zero points, which each tile works out for itself
BLOCK_US = {16: 0.27, 32: 0.29, 64: 0.4, 128: 0.62, 256: 1.42}  # what one takes of a tile of `hopper_low_bit`
NARROWEST, NARROW, WIDE = 16, 128, 256  # rows of R: of `hopper_narrow` from and to, and of `hopper_wide`
NARROW_TOKENS, NARROW_BLOCKS_TOKENS = 9, 17  # from here on narrow tiles may be the quickest; and of a weight in blocks
# What a block of a tile of codes takes, by its rows of R; APART: where a block's sums leave the tensor cores.
KEPT_US = {16: 0.24, 32: 0.26, 64: 0.26, 128: 0.37, 256: 0.72}
APART_US = {16: 0.28, 32: 0.29, 64: 0.36, 128: 0.52, 256: 0.92}
ADD_US = 2.1  # what adding parts takes at least
BYTES_US = 1e5  # bytes of parts that one program writes, or reads, in a microsecond
ALL_BYTES_US = 5e6  # and all programs


class Tile(NamedTuple):
    """How a product is shared: tokens of a tile, teams of a program, splits of K; tiles that go first, and whole."""

    tokens: int
    teams: int
    splits: int = 1
    whole: int = 0


@lru_cache(4096)  # asked twice for each product
def tile_for(tokens: int, out: int, width: int, programs: int, zeros: bool = False) -> Tile | None:
    """The quickest on an H200 of `programs` multiprocessors; None where another kernel is: where few tokens and few
    rows, or few columns, leave little to a split."""
    blocks, rows = triton.cdiv(width, BLOCK), triton.cdiv(out, BLOCK_N)
    middle = MIDDLE_ZEROS if zeros else MIDDLE_TOKENS
    block_t = min(128 if tokens <= middle else 256, max(NARROWEST, triton.next_power_of_2(tokens)))
    if _is_little(tokens, out, blocks, programs):
        return None
    if block_t == 256 and 4 * rows * triton.cdiv(tokens, block_t) < 3 * programs:
        block_t = 128
    tiles = rows * triton.cdiv(tokens, block_t)
    splits, whole = cut(tiles, blocks, programs, BLOCK_US[block_t], BLOCK_N * block_t)
    return Tile(block_t, 2 if tokens <= TEAM_TOKENS else 1, splits, whole)


@lru_cache(4096)
def width_for(tokens: int, out: int, blocks: int, kind: str, programs: int) -> int:
    """Rows of R in the tiles of codes that are the quickest. Narrow ones of tokens have room for all of them, where
    that is not too many; those of a weight whose blocks have scales are of one block's rows."""
    rows, columns = triton.cdiv(out, BLOCK_N), triton.cdiv(tokens, BLOCK_N)
    if tokens < (NARROW_BLOCKS_TOKENS if kind == "blocks" else NARROW_TOKENS):
        return WIDE
    if kind != "blocks" and _has_few_rows(tokens, out):
        return WIDE
    if kind.startswith("int4") and _is_little(tokens, out, blocks, programs):
        return WIDE
    if kind == "fp8" and tokens > NARROW // 2 and 2 * rows * columns > programs:  # torch's are as quick
        return WIDE
    if kind == "fp8" or (kind != "blocks" and tokens <= NARROW):
        return min(NARROW, max(NARROWEST, triton.next_power_of_2(tokens)))
    wide = columns * triton.cdiv(out, WIDE) if kind == "blocks" else rows * triton.cdiv(tokens, WIDE)
    tiles = {NARROW: rows * columns, WIDE: wide}
    return min(
        tiles, key=lambda width: _takes_us(tiles[width], blocks, programs, codes_us(kind, width), BLOCK_N * width)
    )


def codes_us(kind: str, width: int) -> float:
    """What a block takes of a tile of such codes."""
    return (KEPT_US if kind in ("int4", "int8") else APART_US)[width]


def _takes_us(tiles: int, blocks: int, programs: int, block_us: float, part: int) -> float:
    splits, _ = cut(tiles, blocks, programs, block_us, part)
    whole = tiles // programs * programs
    return whole // programs * blocks * block_us + _left_us(tiles - whole, splits, blocks, programs, block_us, part)


def _is_little(tokens: int, out: int, blocks: int, programs: int) -> bool:
    """Whether so few tokens are times so few rows, or columns, that kernels without tiles in shared memory are
    quicker."""
    each = max(1, programs // triton.cdiv(out, BLOCK_N))  # multiprocessors for a tile
    splits = 1 << (each.bit_length() - 1)
    return _has_few_rows(tokens, out) or (tokens <= TEAM_TOKENS and blocks // splits < 2 * SHORT)


def _has_few_rows(tokens: int, out: int) -> bool:
    return tokens <= TEAM_TOKENS and out <= FEWEST_ROWS


@lru_cache(4096)
def cut(tiles: int, blocks: int, programs: int, block_us: float, part: int) -> tuple[int, int]:
    """The splits of what tiles are left when all programs have had as many, and how many tiles that is, which go whole;
    (1, 0) where splitting them does not pay. A part is so many sums."""
    whole = tiles // programs * programs

    def takes_us(splits: int) -> float:
        return _left_us(tiles - whole, splits, blocks, programs, block_us, part)

    splits = min(range(1, max(1, blocks // SHORT) + 1), key=takes_us)
    return (splits, whole) if splits > 1 else (1, 0)


def _left_us(left: int, splits: int, blocks: int, programs: int, block_us: float, part: int) -> float:
    """What tiles in so many splits take, and adding their parts."""
    its, every = 4 * part * (1 + splits), 4 * part * 2 * left * splits  # bytes
    adding = ADD_US + its / BYTES_US + every / ALL_BYTES_US if splits > 1 else 0.0
    return triton.cdiv(left * splits, programs) * triton.cdiv(blocks, splits) * block_us + adding
