"""What Hopper's kernels do with the tiles of a product, in torch: Triton's interpreter runs no Gluon."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.low_bit_weight import BLOCK
from quantcore.matmul.kernels.tile_order import GROUP, place


def launching(emulated: Callable[[int, tuple[Any, ...], Any], None]) -> Callable[..., None]:
    """In place of `launch`: the kernel is `emulated`, with programs, arguments and constants."""

    def launch(_kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        emulated(grid[0], args, constants)

    return launch


def low_bit(programs: int, x: Tensor, w_hat: Tensor, expected: Tensor, args: tuple[Any, ...], sizes: Any) -> None:
    """`_multiply_low_bit` with such arguments; tiles of y (T, N) are as expected when all their columns came."""
    tiles = -(-len(w_hat) // sizes["BLOCK_N"]), -(-len(x) // sizes["BLOCK_T"])
    y, parts, turns, (whole, splits) = args[2].base.fill_(torch.nan), args[7], args[8], args[12:14]
    for piece, tile, columns in _pieces(programs, tiles[0] * tiles[1], whole, splits, x.shape[1]):
        pid_n, pid_t = place.fn(tile, *tiles, GROUP)
        n, t = _rows(pid_n, sizes["BLOCK_N"]), _rows(pid_t, sizes["BLOCK_T"])
        sums = w_hat[n, columns] @ x[t, columns].T
        if _is_all(sums, w_hat[n] @ x[t].T, parts, turns, piece, tile, whole, splits):
            y[t, n] = expected[t, n]
    assert not turns.any()


def codes(programs: int, left: Tensor, right: Tensor, expected: Tensor, args: tuple[Any, ...], sizes: Any) -> None:
    """`multiply_tiles` with such arguments; tiles of y, (R, L) where it is turned, are as expected when all their
    columns came."""
    tiles = -(-len(right) // sizes["BLOCK_R"]), -(-len(left) // sizes["BLOCK_L"])
    y, parts, turns, (whole, splits) = args[2].base.fill_(torch.nan), args[3], args[4], args[17:19]
    for piece, tile, columns in _pieces(programs, tiles[0] * tiles[1], whole, splits, left.shape[1]):
        pid_r, pid_l = place.fn(tile, *tiles, GROUP)
        r, l = _rows(pid_r, sizes["BLOCK_R"]), _rows(pid_l, sizes["BLOCK_L"])  # noqa: E741
        at = (r, l) if sizes["TURNED"] else (l, r)
        sums, of_all = (left[l, some].double() @ right[r, some].double().T for some in (columns, slice(None)))
        if _is_all(sums, of_all, parts, turns, piece, tile, whole, splits):
            y[at] = expected[at]
    assert not turns.any()


def _pieces(programs: int, tiles: int, whole: int, splits: int, width: int) -> list[tuple[int, int, slice]]:
    found = []
    for program in range(programs):
        for piece in range(program, whole + (tiles - whole) * splits, programs):
            tile, begin, end = piece_of.fn(piece, whole, splits, -(-width // BLOCK))
            found.append((piece, tile, slice(begin * BLOCK, end * BLOCK)))
    return found


def _rows(pid: int, size: int) -> slice:
    return slice(pid * size, (pid + 1) * size)


def _is_all(
    sums: Tensor, of_all: Tensor, parts: Tensor | None, turns: Tensor, piece: int, tile: int, whole: int, splits: int
) -> bool:
    """Whether a tile is done with this piece, whose sums are kept where there are others."""
    if parts is None or piece < whole:
        return True
    part = parts[piece - whole]
    part.fill_(torch.nan if part.is_floating_point() else 1 << 30)[: len(sums), : sums.shape[1]] = sums
    left = tile - whole
    turns[2 * left : 2 * left + 2] += 1
    if turns[2 * left + 1] < splits:
        return False
    turns[2 * left : 2 * left + 2] = 0
    added = parts[left * splits : (left + 1) * splits].sum(0)[: len(sums), : sums.shape[1]]
    assert torch.allclose(added.double(), of_all.double(), rtol=1e-5, atol=1e-3)
    return True
