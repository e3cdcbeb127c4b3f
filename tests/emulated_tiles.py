"""What Hopper's kernels do with the tiles of a product, in torch: Triton's interpreter runs no Gluon, and this lets it
run what comes behind them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.low_bit_weight import BLOCK
from quantcore.matmul.kernels.tile_order import GROUP, place


def launching(emulated: Callable[[int, tuple[Any, ...], Any], None]) -> Callable[..., None]:
    """In place of `launch`: a kernel that shares tiles is `emulated`, with programs, arguments and constants."""

    def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        if "SPLIT" in constants:
            emulated(grid[0], args, constants)
        else:
            kernel[grid](*args, **constants)

    return launch


def low_bit(programs: int, x: Tensor, w_hat: Tensor, expected: Tensor, args: tuple[Any, ...], sizes: Any) -> None:
    """`_multiply_low_bit` with such arguments; whole tiles of y (T, N) are as expected."""
    tiles = -(-len(w_hat) // sizes["BLOCK_N"]), -(-len(x) // sizes["BLOCK_T"])
    y, parts, (whole, splits) = args[2].base.fill_(torch.nan), args[7], args[11:13]
    for piece, tile, columns in _pieces(programs, tiles[0] * tiles[1], whole, splits, x.shape[1]):
        pid_n, pid_t = place.fn(tile, *tiles, GROUP)
        n, t = _rows(pid_n, sizes["BLOCK_N"]), _rows(pid_t, sizes["BLOCK_T"])
        if parts is None or piece < whole:
            y[t, n] = expected[t, n]
        else:
            _keep(parts[piece - whole], w_hat[n, columns] @ x[t, columns].T)


def codes(programs: int, left: Tensor, right: Tensor, expected: Tensor, args: tuple[Any, ...], sizes: Any) -> None:
    """`multiply_tiles` with such arguments; whole tiles of y, (R, L) where it is turned,
    are as expected."""
    tiles = -(-len(right) // sizes["BLOCK_R"]), -(-len(left) // sizes["BLOCK_L"])
    y, parts, (whole, splits) = args[2].base.fill_(torch.nan), args[3], args[16:18]
    for piece, tile, columns in _pieces(programs, tiles[0] * tiles[1], whole, splits, left.shape[1]):
        pid_r, pid_l = place.fn(tile, *tiles, GROUP)
        r, l = _rows(pid_r, sizes["BLOCK_R"]), _rows(pid_l, sizes["BLOCK_L"])  # noqa: E741
        at = (r, l) if sizes["TURNED"] else (l, r)
        if parts is None or piece < whole:
            y[at] = expected[at]
        else:
            _keep(parts[piece - whole], left[l, columns].double() @ right[r, columns].double().T)


def _pieces(programs: int, tiles: int, whole: int, splits: int, width: int) -> list[tuple[int, int, slice]]:
    found = []
    for program in range(programs):
        for piece in range(program, whole + (tiles - whole) * splits, programs):
            tile, begin, end = piece_of.fn(piece, whole, splits, -(-width // BLOCK))
            found.append((piece, tile, slice(begin * BLOCK, end * BLOCK)))
    return found


def _rows(pid: int, size: int) -> slice:
    return slice(pid * size, (pid + 1) * size)


def _keep(part: Tensor, sums: Tensor) -> None:
    part.fill_(torch.nan if part.is_floating_point() else 1 << 30)[: len(sums), : sums.shape[1]] = sums
