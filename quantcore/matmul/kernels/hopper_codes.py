"""Codes times codes, on Hopper: the product and the epilogue of `codes_matmul`. Which tiles multiply what is said here;
`hopper_product` is the kernel.

    y[l, r] = sl[l] sr[r] sum over blocks of 128 columns of bl[l, block] br[r / 128, block] sum_k L[l, k] R[r, k]

L are tokens and R rows of the weight, or the other way round where each row has a scale a block.

Integer sums stay in the tensor cores' registers, exact. Those of fp8, which the tensor cores cut, are taken out and
added in float32 each 128 columns, where blocks have scales multiplied by them (`hopper_apart`). Few tiles that are left
for the end are shared by several programs each (`hopper_parts`).

A weight of 4 bits is the left operand, too: it comes packed and is unpacked to bytes in registers (`hopper_unpack`), 16
times its codes for integers of 8, 2^-9 times them for e4m3, and so are the sums. Its groups are whole blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from quantcore.matmul.codes import CodedWeight, TokenCodes, has_room
from quantcore.matmul.kernels.hopper import COPIED, described, described_flat, is_hopper
from quantcore.matmul.kernels.hopper_product import multiply_tiles, stages
from quantcore.matmul.kernels.hopper_tiles import WIDE, codes_us, cut, width_for
from quantcore.matmul.kernels.hopper_unpack import FP8_POWER, INT8_POWER, WORDS, words_of
from quantcore.matmul.kernels.low_bit_weight import LowBitWeight
from quantcore.matmul.kernels.tile_order import GROUP
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import overlapping
from quantcore.numbers.kernels.triton_here import multiprocessors

BLOCK_L, BLOCK_K = 128, 128
MANY_TOKENS = 256  # from here on
SOME_TOKENS = 65  # where blocks have scales, or the weight is packed
MOST_COLUMNS = 1 << 16  # int32 holds so many products of 16 times a code of 4 bits and one of 8


def takes(x: TokenCodes, weight: CodedWeight, dtype: torch.dtype) -> bool:
    """Whether these kernels multiply so many tokens by such a weight, and do it quickest."""
    least = SOME_TOKENS if weight.rows == 128 else MANY_TOKENS
    return takes_narrow(x, weight, dtype) or (
        len(x.codes) >= least
        and _scales_fit(x, weight)
        and _fits(x.codes, weight.out, dtype)
        and (weight.rows > 0 or _share(len(x.codes), weight.out, x.codes, WIDE, _kind(weight)).is_full)
    )


def takes_narrow(x: TokenCodes, weight: CodedWeight, dtype: torch.dtype) -> bool:
    """The same of narrow tiles."""
    fits = _scales_fit(x, weight) and _fits(x.codes, weight.out, dtype)
    return fits and _width(x.codes, weight.out, _kind(weight)) < WIDE


def takes_packed(x: Tensor, codes: torch.dtype, weight: LowBitWeight, dtype: torch.dtype) -> bool:
    """The same of a weight of 4 bits in groups of whole blocks, or with one scale a row; x is, or will be, `codes`."""
    tokens, (out, width) = len(x), weight.shape
    return (
        weight.bits == 4
        and weight.is_plain
        and weight.zero_point is None
        and (weight.group >= width or weight.group % BLOCK_K == 0)
        and width <= MOST_COLUMNS
        and _fits(x, out, dtype)
        and (
            _width(x, out, _packed_kind(codes, weight)) < WIDE
            or (tokens >= SOME_TOKENS and _share(out, tokens, x, WIDE, _packed_kind(codes, weight)).is_full)
        )
    )


def _scales_fit(x: TokenCodes, weight: CodedWeight) -> bool:
    """Whether a block's scale is one of L, times one for 128 rows of R: not where both sides have one a row."""
    return weight.rows in (0, 128) or (weight.rows == 1 and x.scale.dim() == 1)


def _width(x: Tensor, out: int, kind: str) -> int:
    return width_for(len(x), out, triton.cdiv(x.shape[1], BLOCK_K), kind, multiprocessors(x.device))


def _kind(weight: CodedWeight) -> str:
    if weight.rows == 128:
        return "blocks"
    return "int8" if weight.codes.dtype == torch.int8 else "fp8"


def _packed_kind(codes: torch.dtype, weight: LowBitWeight) -> str:
    return "int4" if codes == torch.int8 and weight.group >= weight.shape[1] else "int4 apart"


def _fits(x: Tensor, out: int, dtype: torch.dtype) -> bool:
    return is_hopper(x.device) and dtype in (torch.bfloat16, torch.float16) and out * dtype.itemsize % COPIED == 0


class _Share(NamedTuple):
    """How the tiles of a product go to programs: `whole` ones, and what are left in `splits`."""

    programs: int
    tiles: int
    splits: int
    whole: int

    @property
    def pieces(self) -> int:
        return self.whole + (self.tiles - self.whole) * self.splits

    @property
    def is_full(self) -> bool:
        """Whether two in three multiprocessors get a piece."""
        return 3 * self.pieces >= 2 * self.programs


def _share(left: int, right: int, x: Tensor, block_r: int, kind: str) -> _Share:
    """Of so many rows of L and R, in tiles of block_r of R; x, or its codes, for the columns."""
    tiles, programs = triton.cdiv(right, block_r) * triton.cdiv(left, BLOCK_L), multiprocessors(x.device)
    blocks = triton.cdiv(x.shape[1], BLOCK_K)
    return _Share(programs, tiles, *cut(tiles, blocks, programs, codes_us(kind, block_r), BLOCK_L * block_r))


class Side(NamedTuple):
    """One operand: rows, and what the epilogue needs of them. `kind`: 1 a scale per row, 0 one, -1 none."""

    codes: Tensor
    rows: int
    scale: Tensor
    kind: int
    zero_point: Tensor | None = None
    sums: Tensor | None = None

    def is_even(self, tile: int, bias: Tensor | None) -> bool:
        """Whether all that the epilogue reads of rows may be read of whole tiles."""
        end = triton.cdiv(self.rows, tile) * tile
        numbers = (self.scale if self.kind >= 0 else None, self.zero_point, self.sums, bias)
        return all(one is None or one.numel() == 1 or has_room(one, end) for one in numbers)


def multiply_many(
    x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype, width: int | None = None
) -> Tensor:
    """y (N, O) in `dtype`, of 16 bits, by tiles of so many rows of R. x and weight are padded alike, to whole 128
    columns."""
    kind = _kind(weight)
    block_r = width or _width(x.codes, weight.out, kind)
    scales = -1 if weight.rows else int(weight.scale.numel() > 1)
    of_w = Side(weight.codes, weight.out, weight.scale, scales, weight.zero_point, weight.sums)
    how: dict[str, Any] = {"bias": bias, "dtype": dtype, "block_r": block_r, "early": weight.kept}
    if weight.rows == 1 or (weight.rows == 0 and block_r < WIDE):
        bl = weight.scale if weight.rows else None
        return _multiply(of_w, _tokens(x), kind, weight.turns, turned=True, bl=bl, **how)
    bl, br = x.scale if x.scale.dim() == 2 else None, weight.scale if weight.rows else None
    return _multiply(_tokens(x), of_w, kind, weight.turns, bl=bl, br=br, **how)


def multiply_packed_many(
    x: TokenCodes, weight: LowBitWeight, bias: Tensor | None, dtype: torch.dtype, width: int | None = None
) -> Tensor:
    """The same of a weight that is packed."""
    kind = _packed_kind(x.codes.dtype, weight)
    block_r = width or _width(x.codes, weight.shape[0], kind)
    grouped, power = len(weight.scale) > 1, INT8_POWER if x.codes.dtype == torch.int8 else FP8_POWER
    of_w = Side(words_of(weight), weight.shape[0], weight.scale, -1 if grouped else 1)
    bl, each = (weight.scale, weight.group // BLOCK_K) if grouped else (None, 1)
    return _multiply(
        of_w, _tokens(x), kind, weight.turns, bias, dtype, block_r, turned=True, packed=power, early=True, bl=bl,
        each=each,
    )  # fmt: skip


def _tokens(x: TokenCodes) -> Side:
    kind = -1 if x.scale.dim() == 2 else int(x.scale.numel() > 1)
    return Side(x.codes, len(x.codes), x.scale, kind, x.zero_point, x.sums)


def _multiply(
    left: Side, right: Side, kind: str, turns: Tensor, bias: Tensor | None, dtype: torch.dtype, block_r: int,
    turned: bool = False, packed: int = 0, early: bool = False, bl: Tensor | None = None, br: Tensor | None = None,
    each: int = 1,
) -> Tensor:  # fmt: skip
    """packed: the power of two that one of an unpacked code is worth; each: blocks that share a scale of bl."""
    out, tokens = (left.rows, right.rows) if turned else (right.rows, left.rows)
    y = torch.empty(tokens, out, dtype=dtype, device=right.codes.device)
    width, is_int = right.codes.shape[1], right.codes.dtype == torch.int8
    share = _share(left.rows, right.rows, right.codes, block_r, kind)
    splits, whole, parts = share.splits, share.whole, None
    if splits > 1:
        sums = torch.int32 if is_int and bl is None and br is None else torch.float32
        parts = torch.empty(share.pieces - whole, BLOCK_L, block_r, dtype=sums, device=y.device)
    of_rows = (
        left.scale, right.scale, left.zero_point, right.zero_point, left.sums, right.sums, bias, right.rows, left.rows,
    )  # fmt: skip
    constants = {
        "PACKED": packed, "TURNED": turned, "SL": left.kind, "SR": right.kind, "L_ZERO": left.zero_point is not None,
        "R_ZERO": right.zero_point is not None, "BIAS": "none" if bias is None else "l" if turned else "r",
        "BLOCK_R": block_r, "BLOCK_L": BLOCK_L, "GROUP": GROUP, "num_warps": 4,
        "EVEN": right.is_even(block_r, None if turned else bias),
        **overlapping(y.device),
    }  # fmt: skip
    box = block_r if block_r < WIDE else block_r // 2
    scales = described_flat(bl, BLOCK_L) if packed and bl is not None else bl
    half = BLOCK_L // 2
    launch(
        multiply_tiles, (min(share.pieces, share.programs),),
        described(left.codes, [half, WORDS if packed else BLOCK_K]), described(right.codes, [box, BLOCK_K]),
        described(y, [box, half] if turned else [half, box]), parts, turns, scales, br, *of_rows, width, whole, splits,
        SPLIT=splits > 1, IS_INT=is_int, BL=0 if bl is None else each, BR=br is not None, BLOCK_K=BLOCK_K,
        STAGES=stages(BLOCK_L, block_r, BLOCK_K, packed != 0, bl is not None), EARLY=early, **constants,
    )  # fmt: skip
    return y
