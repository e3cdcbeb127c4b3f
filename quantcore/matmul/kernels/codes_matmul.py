"""Codes times codes: y = scales * (x_q @ w_q^T), int8 with int32 sums or fp8 with float32 sums, the scales in the
epilogue.

    y[t, n] = sx[t] * sw[n] * ( sum_k xq wq - zw[n] * sum_k (xq - zx[t]) - zx[t] * sum_k wq ) + bias[n]

Everything inside the brackets is a whole number when the codes are integers, held exactly in int32. The epilogue is
float32: the sum to float32, times sx, times sw, plus bias, each rounded once, then the output's type.

Of few tokens the weight is the left operand, so that a tile of few tokens still fills the tensor cores: the tile is
BLOCK_N weight rows by BLOCK_T tokens. Where such tiles are too few for the GPU, K is cut into pieces; each program
leaves its sums, and the last one of a tile adds them, in the pieces' order. Of many tokens x is the left operand and
one program per multiprocessor walks over the tiles: the bulk copy engine brings codes and takes results away while the
next tile is multiplied. Both operands lie along K, which is how tensor cores want 8-bit codes, and as checkpoints keep
weights. K is padded to a multiple of 128 by zero codes; other edges are masked.

With BLOCKS each block of the weight, 128 columns of some rows, has its own scale (sw[n/rows, k/128]), with X_BLOCKS so
has each 128 columns of a token (sx[t, k/128]): the sum over those columns is scaled before it is added, in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.codes import CodedWeight, TokenCodes
from quantcore.matmul.kernels.tile_order import GROUP, place
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next, overlapping
from quantcore.numbers.kernels.triton_here import multiprocessors
from quantcore.numbers.kernels.turns import is_last

COPIED = 16  # bytes, of which the bulk copy engine takes whole ones


class Tile(NamedTuple):
    """BLOCK_N weight rows x BLOCK_T tokens, BLOCK_K columns at a time; `persistent`: one program per multiprocessor;
    `splits`: pieces of K."""

    n: int
    t: int
    k: int
    warps: int
    stages: int
    persistent: bool = False
    splits: int = 1


@triton.jit
def _results(
    sums, n, t, N, T, sx_ptr, sw_ptr, zx_ptr, zw_ptr, x_sum_ptr, w_sum_ptr, bias_ptr,
    SX: tl.constexpr, SW: tl.constexpr, X_ZERO: tl.constexpr, W_ZERO: tl.constexpr, BIAS: tl.constexpr,
    BLOCKS: tl.constexpr, X_BLOCKS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Zero points, scales and bias of one tile, in y's type; sums (tokens t, rows n). SX, SW: 1 per row, 0 for one
    scale."""
    in_n, in_t = n < N, t < T
    if W_ZERO:
        zw = tl.load(zw_ptr + n * SW, mask=in_n, other=0)
        sums -= tl.load(x_sum_ptr + t, mask=in_t, other=0)[:, None] * zw[None, :]
    if X_ZERO:
        zx = tl.load(zx_ptr + t * SX, mask=in_t, other=0)
        sums -= zx[:, None] * tl.load(w_sum_ptr + n, mask=in_n, other=0)[None, :]
    if DTYPE == tl.int32:
        y = sums
    else:
        y = sums.to(tl.float32)
        if not X_BLOCKS:
            y = y * tl.load(sx_ptr + t * SX, mask=in_t, other=0.0)[:, None]
        if not BLOCKS:
            y = y * tl.load(sw_ptr + n * SW, mask=in_n, other=0.0)[None, :]
        if BIAS:
            y += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    return y.to(DTYPE)


@triton.jit(do_not_specialize=["T"])
def _multiply(
    w_ptr,
    x_ptr,
    y_ptr,
    sx_ptr,
    sw_ptr,
    zx_ptr,
    zw_ptr,
    x_sum_ptr,
    w_sum_ptr,
    bias_ptr,
    N,
    T,
    K,
    rows,
    parts_ptr,
    turns_ptr,
    SX: tl.constexpr,
    SW: tl.constexpr,
    X_ZERO: tl.constexpr,
    W_ZERO: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCKS: tl.constexpr,
    X_BLOCKS: tl.constexpr,
    FEW: tl.constexpr,  # a tile has more tokens than there are
    SPLITS: tl.constexpr,  # > 1: partial sums go through parts, (SPLITS, N, T)
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    pid_n, pid_t = place(tl.program_id(0), tl.cdiv(N, BLOCK_N), tl.cdiv(T, BLOCK_T), GROUP)
    n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    t = pid_t * BLOCK_T + tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_K)
    row_n, row_t = n % N, t % T
    w_at = w_ptr + row_n.to(tl.int64)[:, None] * K + k[None, :]
    x_at = x_ptr + row_t.to(tl.int64)[:, None] * K + k[None, :]
    is_int: tl.constexpr = w_ptr.dtype.element_ty == tl.int8
    acc = tl.zeros([BLOCK_N, BLOCK_T], tl.int32 if is_int and not BLOCKS else tl.float32)
    each = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS)
    begin = tl.program_id(1) * each
    w_at += begin * BLOCK_K
    x_at += begin * BLOCK_K
    after_last(OVERLAP)
    for block in range(begin, tl.minimum(begin + each, tl.cdiv(K, BLOCK_K))):
        w = tl.load(w_at)
        if FEW:  # rows read again and again would all ask the same piece of the cache
            x = tl.load(x_at, mask=(t < T)[:, None], other=0.0)
        else:
            x = tl.load(x_at)
        if BLOCKS:
            sw = tl.load(sw_ptr + (row_n // rows) * (K // BLOCK_K) + block)
            part = tl.dot(w, tl.trans(x), out_dtype=tl.int32 if is_int else tl.float32).to(tl.float32)
            if X_BLOCKS:
                sx = tl.load(sx_ptr + row_t * (K // BLOCK_K) + block)
                acc += part * (sw[:, None] * sx[None, :])
            else:
                acc += part * sw[:, None]
        elif is_int:
            acc = tl.dot(w, tl.trans(x), acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(w, tl.trans(x), acc, max_num_imprecise_acc=BLOCK_K)
        w_at += BLOCK_K
        x_at += BLOCK_K
    let_next(OVERLAP)
    last = True
    if SPLITS > 1:
        size = N.to(tl.int64) * T
        own = n.to(tl.int64)[:, None] * T + t[None, :]
        inside = (n < N)[:, None] & (t < T)[None, :]
        tl.store(parts_ptr + tl.program_id(1) * size + own, acc, mask=inside)
        last = is_last(turns_ptr + tl.program_id(0), SPLITS)
        if last:
            acc = tl.load(parts_ptr + own, mask=inside, other=0, cache_modifier=".cg")
            for piece in tl.static_range(1, SPLITS):
                acc += tl.load(parts_ptr + piece * size + own, mask=inside, other=0, cache_modifier=".cg")
    if last:
        y = _results(
            tl.trans(acc), n, t, N, T, sx_ptr, sw_ptr, zx_ptr, zw_ptr, x_sum_ptr, w_sum_ptr, bias_ptr,
            SX, SW, X_ZERO, W_ZERO, BIAS, BLOCKS, X_BLOCKS, y_ptr.dtype.element_ty,
        )  # fmt: skip
        tl.store(y_ptr + t.to(tl.int64)[:, None] * N + n[None, :], y, mask=(t < T)[:, None] & (n < N)[None, :])


@triton.jit(do_not_specialize=["T"])
def _multiply_many(
    w_desc,
    x_desc,
    y_desc,
    sx_ptr,
    sw_ptr,
    zx_ptr,
    zw_ptr,
    x_sum_ptr,
    w_sum_ptr,
    bias_ptr,
    N,
    T,
    K,
    SX: tl.constexpr,
    SW: tl.constexpr,
    X_ZERO: tl.constexpr,
    W_ZERO: tl.constexpr,
    BIAS: tl.constexpr,
    IS_INT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Programs walk over tiles of BLOCK_T tokens x BLOCK_N rows; the copy engine fills edges with zeros."""
    after_last(OVERLAP)
    tiles_n, tiles_t = tl.cdiv(N, BLOCK_N), tl.cdiv(T, BLOCK_T)
    half: tl.constexpr = BLOCK_N // 2
    for tile in tl.range(tl.program_id(0), tiles_n * tiles_t, PROGRAMS, flatten=True):
        pid_n, pid_t = place(tile, tiles_n, tiles_t, GROUP)
        acc = tl.zeros([BLOCK_T, BLOCK_N], tl.int32 if IS_INT else tl.float32)
        for block in range(0, tl.cdiv(K, BLOCK_K)):
            x = x_desc.load([pid_t * BLOCK_T, block * BLOCK_K])
            w = w_desc.load([pid_n * BLOCK_N, block * BLOCK_K])
            if IS_INT:
                acc = tl.dot(x, tl.trans(w), acc, out_dtype=tl.int32)
            else:
                acc = tl.dot(x, tl.trans(w), acc, max_num_imprecise_acc=BLOCK_K)
        t = pid_t * BLOCK_T + tl.arange(0, BLOCK_T)
        halves = tl.split(tl.permute(tl.reshape(acc, (BLOCK_T, 2, half)), (0, 2, 1)))
        for side in tl.static_range(2):
            begin = pid_n * BLOCK_N + side * half
            y = _results(
                halves[side], begin + tl.arange(0, half), t, N, T, sx_ptr, sw_ptr, zx_ptr, zw_ptr, x_sum_ptr, w_sum_ptr,
                bias_ptr, SX, SW, X_ZERO, W_ZERO, BIAS, False, False, y_desc.dtype,
            )  # fmt: skip
            y_desc.store([pid_t * BLOCK_T, begin], y)
    let_next(OVERLAP)


def multiply(
    x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype, tile: Tile | None = None
) -> Tensor:
    """y (N, O) in `dtype`; int32 gives the bare sums, zero points taken off. x and weight are padded alike."""
    tokens, width = x.codes.shape
    out = weight.out
    y = torch.empty(tokens, out, dtype=dtype, device=x.codes.device)
    blocks = weight.rows > 0
    tile = tile or tile_for(tokens, out, width, blocks)
    if width % tile.k:
        tile = tile._replace(k=128)
    if tile.persistent and out * y.element_size() % COPIED:
        tile = Tile(128, 128, 128, 4, 4)  # the copy engine wants rows of whole pieces
    constants: dict[str, Any] = {
        "SX": int(x.scale.numel() > 1),
        "SW": int(weight.scale.numel() > 1),
        "X_ZERO": x.zero_point is not None,
        "W_ZERO": weight.zero_point is not None,
        "BIAS": bias is not None,
        "BLOCK_N": tile.n,
        "BLOCK_T": tile.t,
        "BLOCK_K": tile.k,
        "GROUP": GROUP,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **overlapping(y.device, crowd=tokens),
    }
    after = (x.scale, weight.scale, x.zero_point, weight.zero_point, x.sums, weight.sums, bias, out, tokens, width)
    tiles = triton.cdiv(out, tile.n) * triton.cdiv(tokens, tile.t)
    is_int = weight.codes.dtype == torch.int8
    if tile.persistent:
        from triton.tools.tensor_descriptor import TensorDescriptor

        programs = min(tiles, multiprocessors(y.device))
        w_desc = TensorDescriptor.from_tensor(weight.codes, [tile.n, tile.k])
        x_desc = TensorDescriptor.from_tensor(x.codes, [tile.t, tile.k])
        y_desc = TensorDescriptor.from_tensor(y, [tile.t, tile.n // 2])
        if y.element_size() > 2:  # results take twice the shared memory
            constants["num_stages"] = tile.stages - 1
        constants |= {"IS_INT": is_int, "PROGRAMS": programs}
        launch(_multiply_many, (programs,), w_desc, x_desc, y_desc, *after, **constants)
        return y
    splits = tile.splits if tiles <= len(weight.turns) else 1
    kind = torch.int32 if is_int and not blocks else torch.float32
    parts = torch.empty(splits, out, tokens, dtype=kind, device=y.device) if splits > 1 else None
    constants |= {"BLOCKS": blocks, "X_BLOCKS": x.scale.dim() == 2, "FEW": tokens < tile.t, "SPLITS": splits}
    launch(_multiply, (tiles, splits), weight.codes, x.codes, y, *after, weight.rows, parts, weight.turns, **constants)
    return y


def tile_for(tokens: int, out: int, width: int, blocks: bool) -> Tile:
    """The tile that was quickest on an H100 and an H200 for so many tokens, weight rows and columns."""
    if blocks:
        few = 32 if out < 8192 else 64
        if tokens <= 16:
            return Tile(few, 16, 128, 4, 4)
        if tokens <= 32:
            return Tile(few, 32, 128, 4, 4)
        return Tile(128, 64, 128, 4, 4) if tokens <= 64 else Tile(128, 128, 128, 8, 4)
    if tokens <= 32:
        least, stages = (16, 6) if tokens <= 16 else (32, 5)
        return Tile(64, least, 128, 4, 4 if out >= 16384 else stages, splits=splits_for(out, width, 1024))
    if tokens <= 64:
        if out >= 16384:
            return Tile(128, 64, 128, 4, 4)
        return Tile(64, 64, 128, 4, 6 if out < 8192 else 5, splits=splits_for(out, width, 4096))
    if tokens <= 128:
        return Tile(128, 128, 128, 4, 4)
    return Tile(128, 256, 128, 8, 4, persistent=True)


def splits_for(out: int, width: int, least: int) -> int:
    """Pieces of K, of at least so many columns, where few rows would leave multiprocessors idle."""
    pieces = 1
    while pieces * out < 14336 and width // (2 * pieces) >= least:
        pieces *= 2
    return pieces
