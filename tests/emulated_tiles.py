"""What Hopper's kernels do with the tiles of a product, in torch: Triton's interpreter runs no Gluon, and this lets it
run what comes before and after them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from quantcore.matmul.kernels.hopper import place
from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.low_bit_weight import BLOCK


def low_bit(programs: int, x: Tensor, w_hat: Tensor, args: tuple[Any, ...], constants: dict[str, Any]) -> None:
    """`_multiply_low_bit`, launched with `args` for x (T, K) and a weight (N, K)."""
    y, (sx, bias, parts, N, T, blocks, whole, splits) = args[3].base.fill_(torch.nan), args[6:14]
    size_n, size_t = constants["BLOCK_N"], constants["BLOCK_T"]
    tiles_n, tiles_t = -(-N // size_n), -(-T // size_t)
    for piece, tile, begin, end in _pieces(programs, tiles_n * tiles_t, whole, splits, blocks):
        pid_n, pid_t = place.fn(tile, tiles_n, tiles_t, constants["GROUP"])
        n, t = slice(pid_n * size_n, (pid_n + 1) * size_n), slice(pid_t * size_t, (pid_t + 1) * size_t)
        columns = slice(begin * BLOCK, end * BLOCK)
        sums = w_hat[n, columns] @ x[t, columns].T
        if piece >= whole and constants["SPLIT"]:
            parts[piece - whole].fill_(torch.nan)[: len(sums), : sums.shape[1]] = sums
        else:
            y[t, n] = (sums * sx[t] + bias[n, None]).T


def _pieces(programs: int, tiles: int, whole: int, splits: int, blocks: int) -> Iterator[tuple[int, int, int, int]]:
    for program in range(programs):
        for piece in range(program, whole + (tiles - whole) * splits, programs):
            yield piece, *piece_of.fn(piece, whole, splits, blocks)
