"""What Hopper's kernels do with the tiles of a product, in torch: Triton's interpreter runs no Gluon. Results are made
of sums as there, from the arguments of the launch."""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.hopper_results import left_scales, results
from quantcore.matmul.kernels.low_bit_weight import BLOCK
from quantcore.matmul.kernels.tile_order import GROUP, place


def launching(emulated: Callable[[int, tuple[Any, ...], Any], None]) -> Callable[..., None]:
    """In place of `launch`: the kernel is `emulated`, with programs, arguments and constants."""

    def launch(_kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        emulated(grid[0], args, constants)

    return launch


def low_bit(programs: int, x: Tensor, w_hat: Tensor, args: tuple[Any, ...], sizes: Any) -> None:
    """`_multiply_low_bit` with such arguments: tiles of y (T, N), when all their columns came."""
    tiles = -(-len(w_hat) // sizes["BLOCK_N"]), -(-len(x) // sizes["BLOCK_T"])
    y, parts, turns, (whole, splits) = args[2].base.fill_(torch.nan), args[7], args[8], args[12:14]
    for piece, tile, columns in _pieces(programs, tiles[0] * tiles[1], whole, splits, x.shape[1]):
        pid_n, pid_t = place.fn(tile, *tiles, GROUP)
        n, t = _rows(pid_n, sizes["BLOCK_N"]), _rows(pid_t, sizes["BLOCK_T"])
        sums = w_hat[n, columns] @ x[t, columns].T
        block = torch.empty(sizes["BLOCK_N"], sizes["BLOCK_T"])
        if (added := _added(sums, block, parts, turns, piece, tile, whole, splits)) is not None:
            tile_y = added[: len(sums), : sums.shape[1]].T
            if sizes["SX"]:
                tile_y = tile_y * args[5].expand(len(x))[t, None]
            y[t, n] = tile_y + args[6][n] if sizes["BIAS"] else tile_y
    assert not turns.any()


def codes(programs: int, left: Tensor, right: Tensor, args: tuple[Any, ...], sizes: Any) -> None:
    """`multiply_tiles` with such arguments: tiles of y, (R, L) where it is turned, when all their columns came."""
    tiles = -(-len(right) // sizes["BLOCK_R"]), -(-len(left) // sizes["BLOCK_L"])
    y, parts, turns, (whole, splits) = args[2].base.fill_(torch.nan), args[3], args[4], args[17:19]
    for piece, tile, columns in _pieces(programs, tiles[0] * tiles[1], whole, splits, left.shape[1]):
        pid_r, pid_l = place.fn(tile, *tiles, GROUP)
        r, l = _rows(pid_r, sizes["BLOCK_R"]), _rows(pid_l, sizes["BLOCK_L"])  # noqa: E741
        sums = left[l, columns].double() @ right[r, columns].double().T
        kind = torch.int32 if sizes["IS_INT"] and not (sizes["BL"] or sizes["BR"]) else torch.float32
        block = torch.empty(sizes["BLOCK_L"], sizes["BLOCK_R"], dtype=kind)
        if (added := _added(sums, block, parts, turns, piece, tile, whole, splits)) is not None:
            names = ("PACKED", "TURNED", "SL", "SR", "L_ZERO", "R_ZERO", "BIAS", "EVEN", "BLOCK_L", "BLOCK_R")
            _finish[(1,)](added.contiguous(), y, l.start, r.start, *args[7:16], **{name: sizes[name] for name in names})
    assert not turns.any()


@triton.jit
def _finish(
    sums_ptr, y_ptr, begin_l, begin_r, sl_ptr, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, R, L,
    PACKED: tl.constexpr, TURNED: tl.constexpr, SL: tl.constexpr, SR: tl.constexpr, L_ZERO: tl.constexpr,
    R_ZERO: tl.constexpr, BIAS: tl.constexpr, EVEN: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """A tile's results, of its sums."""
    rows, columns = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_R)
    at_l, at_r = begin_l + rows, begin_r + columns
    y = results(
        tl.load(sums_ptr + rows[:, None] * BLOCK_R + columns[None, :]), at_r, at_l, R, L,
        left_scales(sl_ptr, at_l, L, SL), sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr, SL, SR, L_ZERO,
        R_ZERO, BIAS, PACKED, EVEN, y_ptr.dtype.element_ty,
    )  # fmt: skip
    to = at_r[None, :] * L + at_l[:, None] if TURNED else at_l[:, None] * R + at_r[None, :]
    tl.store(y_ptr + to, y, mask=(at_l < L)[:, None] & (at_r < R)[None, :])


def _pieces(programs: int, tiles: int, whole: int, splits: int, width: int) -> list[tuple[int, int, slice]]:
    found = []
    for program in range(programs):
        for piece in range(program, whole + (tiles - whole) * splits, programs):
            tile, begin, end = piece_of.fn(piece, whole, splits, -(-width // BLOCK))
            found.append((piece, tile, slice(begin * BLOCK, end * BLOCK)))
    return found


def _rows(pid: int, size: int) -> slice:
    return slice(pid * size, (pid + 1) * size)


def _added(
    sums: Tensor, block: Tensor, parts: Tensor | None, turns: Tensor, piece: int, tile: int, whole: int, splits: int
) -> Tensor | None:
    """The sums of a tile's piece, in a `block` of the tile's size, or, where it is split, of all its pieces if this was
    the last; None if it was not."""
    is_split = parts is not None and piece >= whole
    part = parts[piece - whole] if parts is not None and is_split else block
    part.fill_(torch.nan if part.is_floating_point() else 1 << 28)[: len(sums), : sums.shape[1]] = sums
    if parts is None or not is_split:
        return part
    left = tile - whole
    turns[2 * left : 2 * left + 2] += 1
    if turns[2 * left + 1] < splits:
        return None
    turns[2 * left : 2 * left + 2] = 0
    return parts[left * splits : (left + 1) * splits].sum(0, dtype=parts.dtype)
