"""16-bit tokens times codes of 2 to 8 bits: the weight is unpacked in registers, on its way to the tensor cores.

    y[t, n] = bias[n] + sum over groups G of
                  scale[n, G] * ( sum_{k in G} x[t, k] q[n, k] - zero[n, G] * sum_{k in G} x[t, k] )

A code is a small whole number, exact in bf16 and fp16; the products of a group are summed in float32, then scaled in
float32. So the weight is never rounded to 16 bits: the result is nearer to the exact product of x with the dequantized
weight than a 16-bit matmul of a 16-bit W_hat is.

Layout of 4-bit codes (made once by `pack_weight`): K is cut into blocks of 128 columns; word j of a block, an int16,
holds columns j, 32 + j, 64 + j and 96 + j of the block, each as code + 8, first column in the lowest bits. So the same
four bits of 32 neighbouring words are 32 neighbouring columns, a plane, and two words side by side in one 32-bit
register unpack together: one shift, one logic operation that also writes the exponent of 128 (or of 1024 in fp16), one
exact subtraction. The blocks lie one behind the other, (K / 128, O, 32), so a tile of rows is one piece of memory.
Wider codes take a byte each, (O, padded K).

For few tokens K is cut into pieces, a program each, so that enough loads are under way. The program that finishes a
tile last adds up the pieces, in their order, so that the result is always the same. Up to 16 tokens
`few_tokens_matmul` is quicker, on the same layout, as long as x fits a multiprocessor's cache.

What the bytes allow at K 4096, N 14336, group 128: codes 29.4 MB and scales 1.8 MB against 117 MB in bf16, 3.8 times.
What holds this kernel is not memory: it took 16 us on an H100 and on an H200 alike, whose memory is 1.4 times as fast.
Planes of 64 columns, fewer instructions a weight, were slower on an H100 (18.4 us against 15.4, one token).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.kernels.codes_matmul import Tile
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.qtensor import QTensor

BLOCK = 128  # K is padded to a multiple of it
PLANES = 4
PLANE = 32  # columns
ROWS_A_TURN = 16  # for so many rows of the weight there is a turn to count


class LowBitWeight(NamedTuple):
    """words: int16 (K / 128, O, 32), or int8 (O, padded K); scale (groups, O) float32; zero_point like scale, int8, or
    None; group: columns that share a scale; order: x's columns in the order of the weight's, None where as they come;
    turns: zeros, how many pieces of a tile are done (so one weight is not for two products at the same time)."""

    words: Tensor
    scale: Tensor
    zero_point: Tensor | None
    group: int
    order: Tensor | None
    shape: tuple[int, int]
    turns: Tensor

    @property
    def bits(self) -> int:
        return 4 if self.words.dtype == torch.int16 else 8

    @property
    def columns_a_scale(self) -> int:
        """32 to 128: columns of a block that surely share a scale."""
        return next(size for size in (128, 64, 32) if self.group % size == 0 or self.group >= self.shape[1])


def _asm(shift: int, exponent: int, restore: str) -> str:
    """Two words in $1: their bits [shift, shift + 4) as two 16-bit floats in $0."""
    both = exponent << 16 | exponent
    bits = f"shr.u32 t, $1, {shift}; lop3.b32 t, t, 0x000F000F, {both:#x}, 0xEA;"
    return f"{{ .reg .b32 t, one, less; {bits} {restore} }}"


_BF16 = "mov.b32 one, 0x3F803F80; mov.b32 less, 0xC308C308; fma.rn.bf16x2 $0, t, one, less;"  # 1 * (128 + u) - 136
_FP16 = "mov.b32 less, 0x64086408; sub.f16x2 $0, t, less;"  # (1024 + u) - 1032
BF16_0, BF16_4, BF16_8, BF16_12 = (tl.constexpr(_asm(shift, 0x4300, _BF16)) for shift in (0, 4, 8, 12))
FP16_0, FP16_4, FP16_8, FP16_12 = (tl.constexpr(_asm(shift, 0x6400, _FP16)) for shift in (0, 4, 8, 12))


@triton.jit
def _assemble(words, BF16_ASM: tl.constexpr, FP16_ASM: tl.constexpr, BF16: tl.constexpr):
    code: tl.constexpr = BF16_ASM if BF16 else FP16_ASM
    if words.dtype == tl.int32:
        return tl.inline_asm_elementwise(code, "=r,r", [words], dtype=tl.int32, is_pure=True, pack=1)
    elif BF16:
        return tl.inline_asm_elementwise(code, "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2)
    else:
        return tl.inline_asm_elementwise(code, "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2)


@triton.jit
def unpack(words, PLANE: tl.constexpr, BF16: tl.constexpr):
    """Bits [4 PLANE, 4 PLANE + 4) of every word, less 8, as bf16 or fp16. Words are int16; or two lie in an int32 each,
    and so do the two numbers that come out."""
    if PLANE == 0:
        return _assemble(words, BF16_0, FP16_0, BF16)
    elif PLANE == 1:
        return _assemble(words, BF16_4, FP16_4, BF16)
    elif PLANE == 2:
        return _assemble(words, BF16_8, FP16_8, BF16)
    else:
        return _assemble(words, BF16_12, FP16_12, BF16)


@triton.jit
def _plane(words, PLANE: tl.constexpr, dtype: tl.constexpr, PLAIN: tl.constexpr):
    """`unpack` of int16 words. PLAIN says the same without assembler."""
    if PLAIN:
        return (((words >> (4 * PLANE)) & 15).to(tl.int32) - 8).to(tl.float32).to(dtype)
    else:
        return unpack(words, PLANE, dtype == tl.bfloat16)


@triton.jit
def group_of(k, K, group, CHUNK: tl.constexpr, GROUPS: tl.constexpr):
    """The group of column k. The padding of K may begin one that does not exist; x is zero there, so the last one's
    scale will do."""
    if GROUPS == 1:
        return 0
    elif GROUPS == 2:
        return tl.minimum(k // CHUNK, (K - 1) // CHUNK)
    else:
        return tl.minimum(k // group, (K - 1) // group)


@triton.jit(do_not_specialize=["T", "blocks"])
def _multiply_packed(
    w_ptr,
    x_ptr,
    y_ptr,
    parts_ptr,
    turns_ptr,
    scale_ptr,
    zero_ptr,
    bias_ptr,
    N,
    T,
    K,
    blocks,  # of 128 columns, K padded
    group,
    BITS: tl.constexpr,
    PLANE: tl.constexpr,
    CHUNK: tl.constexpr,  # columns of a block that share a scale
    GROUPS: tl.constexpr,  # 1: the whole row shares one; 2: each CHUNK has its own; 3: several CHUNKs share one
    ZERO: tl.constexpr,
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,  # K is a multiple of 128
    FEW: tl.constexpr,  # T <= BLOCK_T
    SPLITS: tl.constexpr,  # > 1: partial sums go through parts, float32 (SPLITS, T, N)
    PLAIN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile = tl.program_id(0)
    if FEW:
        pid_n, pid_t = tile, 0
    else:
        tiles_n, tiles_t = tl.cdiv(N, BLOCK_N), tl.cdiv(T, BLOCK_T)
        a_group = GROUP * tiles_n
        first = (tile // a_group) * GROUP
        size = tl.minimum(tiles_t - first, GROUP)
        pid_n, pid_t = (tile % a_group) // size, first + (tile % a_group) % size
    split = tl.program_id(1)
    n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    t = pid_t * BLOCK_T + tl.arange(0, BLOCK_T)
    row_n, row_t = tl.minimum(n, N - 1), tl.minimum(t, T - 1)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    acc = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    per_split = tl.cdiv(blocks, SPLITS)
    begin = split * per_split
    if BITS == 4:
        j = tl.arange(0, PLANE)
        w_at = w_ptr + begin.to(tl.int64) * N * PLANE + row_n[:, None] * PLANE + j[None, :]
        x_at = x_ptr + row_t.to(tl.int64)[:, None] * K + j[None, :]
        for block in range(begin, tl.minimum(begin + per_split, blocks)):
            words = tl.load(w_at)
            w_at += N * PLANE
            partial = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
            sums = tl.zeros([BLOCK_T], tl.float32)
            for plane in tl.static_range(4):
                k = (block * 4 + plane) * PLANE
                if EVEN:
                    x = tl.load(x_at + k, mask=(t < T)[:, None], other=0.0)
                else:
                    x = tl.load(x_at + k, mask=(t < T)[:, None] & (k + j[None, :] < K), other=0.0)
                partial = tl.dot(_plane(words, plane, dtype, PLAIN), tl.trans(x), partial)
                if ZERO:
                    sums += tl.sum(x.to(tl.float32), 1)
                if (plane + 1) * PLANE % CHUNK == 0:
                    at = group_of(k, K, group, CHUNK, GROUPS) * N + row_n
                    if ZERO:
                        partial -= tl.load(zero_ptr + at).to(tl.float32)[:, None] * sums[None, :]
                        sums = tl.zeros([BLOCK_T], tl.float32)
                    acc += partial * tl.load(scale_ptr + at)[:, None]
                    partial = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    else:
        j = tl.arange(0, CHUNK)
        w_at = w_ptr + row_n.to(tl.int64)[:, None] * (blocks * 128) + j[None, :]
        x_at = x_ptr + row_t.to(tl.int64)[:, None] * K + j[None, :]
        for k in range(begin * 128, tl.minimum(begin + per_split, blocks) * 128, CHUNK):
            codes = tl.load(w_at + k)
            if EVEN:
                x = tl.load(x_at + k, mask=(t < T)[:, None], other=0.0)
            else:
                x = tl.load(x_at + k, mask=(t < T)[:, None] & (k + j[None, :] < K), other=0.0)
            partial = tl.dot(codes.to(dtype), tl.trans(x))
            at = group_of(k, K, group, CHUNK, GROUPS) * N + row_n
            if ZERO:
                partial -= tl.load(zero_ptr + at).to(tl.float32)[:, None] * tl.sum(x.to(tl.float32), 1)[None, :]
            acc += partial * tl.load(scale_ptr + at)[:, None]
    out = tl.trans(acc)
    in_n, in_t = n < N, t < T
    inside = in_t[:, None] & in_n[None, :]
    at = t.to(tl.int64)[:, None] * N + n[None, :]
    last = True
    if SPLITS > 1:
        size_y = T.to(tl.int64) * N
        tl.store(parts_ptr + split * size_y + at, out, mask=inside)
        tl.debug_barrier()  # all threads' sums are written before one of them counts the program as done
        last = tl.atomic_add(turns_ptr + tile, 1) == SPLITS - 1
        if last:
            out = tl.load(parts_ptr + at, mask=inside, other=0.0, cache_modifier=".cg")
            for other in range(1, SPLITS):
                out += tl.load(parts_ptr + other * size_y + at, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(turns_ptr + tile, 0)
    if last:
        if BIAS:
            out += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
        tl.store(y_ptr + at, out.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def _expand(
    w_ptr,
    out_ptr,
    scale_ptr,
    zero_ptr,
    N,
    K,
    blocks,
    group,
    BITS: tl.constexpr,
    PLANE: tl.constexpr,
    ZERO: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    block = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.arange(0, PLANE)
    in_n = n < N
    row = n.to(tl.int64)
    if BITS == 4:
        at = w_ptr + block.to(tl.int64) * N * PLANE + row[:, None] * PLANE + j[None, :]
        words = tl.load(at, mask=in_n[:, None], other=0)
    for plane in tl.static_range(4):
        start = (block * 4 + plane) * PLANE
        k = start + j
        if BITS == 4:
            codes = (((words >> (4 * plane)) & 15).to(tl.int32) - 8).to(tl.float32)
        else:
            at = w_ptr + row[:, None] * (blocks * 128) + k[None, :]
            codes = tl.load(at, mask=in_n[:, None], other=0).to(tl.float32)
        at_scale = tl.minimum(start // group, (K - 1) // group) * N + n
        if ZERO:
            codes -= tl.load(zero_ptr + at_scale, mask=in_n, other=0).to(tl.float32)[:, None]
        real = codes * tl.load(scale_ptr + at_scale, mask=in_n, other=0.0)[:, None]
        inside = in_n[:, None] & (k[None, :] < K)
        tl.store(out_ptr + row[:, None] * K + k[None, :], real.to(out_ptr.dtype.element_ty), mask=inside)


def pack_weight(qweight: QTensor) -> LowBitWeight:
    """The codes of an integer QTensor in the layout above. Groups of columns that are no neighbours become neighbours:
    columns are put in the order of their groups, and `order` says which columns of x go with them."""
    codes = qweight.q
    order = None
    if qweight.g_idx is not None:
        order = torch.sort(qweight.g_idx, stable=True).indices
        codes = codes[:, order]
    rows, width = codes.shape
    group = width // qweight.scale.shape[1]
    padded = torch.nn.functional.pad(codes, (0, -width % BLOCK))
    if qweight.spec.fmt.bits <= 4:
        planes = ((padded.to(torch.int32) + 8) & 15).view(rows, -1, PLANES, PLANE)
        words = planes[:, :, 0]
        for place in range(1, PLANES):
            words = words | (planes[:, :, place] << (4 * place))
        padded = words.to(torch.int16).transpose(0, 1)
    zero = qweight.zero_point
    return LowBitWeight(
        padded.contiguous(),
        _by_group(qweight.scale, rows),
        None if zero is None else _by_group(zero, rows).to(torch.int8),
        group,
        order,
        (rows, width),
        torch.zeros(rows // ROWS_A_TURN + 2, dtype=torch.int32, device=codes.device),
    )


def _by_group(part: Tensor, rows: int) -> Tensor:
    """One value a row and group, (groups, O)."""
    return part.repeat_interleave(rows // part.shape[0], 0).t().contiguous()


def multiply_packed(
    x: Tensor, weight: LowBitWeight, bias: Tensor | None, tile: Tile | None = None, splits: int | None = None
) -> Tensor:
    """y (N, O) in the dtype of x, which is bf16 or fp16. Shape of x: (N, K), contiguous, columns in the weight's
    order."""
    tokens, width = x.shape
    out = weight.shape[0]
    tile = tile or tile_for(tokens, weight)
    splits = splits or splits_for(tokens, out, width)
    chunk = weight.columns_a_scale
    y = torch.empty(tokens, out, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(out, tile.n) * triton.cdiv(tokens, tile.t)
    if tiles > len(weight.turns):
        splits = 1
    parts = torch.empty(splits, tokens, out, dtype=torch.float32, device=x.device) if splits > 1 else None
    launch(
        _multiply_packed, (tiles, splits),
        weight.words, x, y, parts, weight.turns, weight.scale, weight.zero_point, bias,
        out, tokens, width, triton.cdiv(width, BLOCK), weight.group,
        BITS=weight.bits, PLANE=PLANE, CHUNK=chunk,
        GROUPS=1 if weight.group >= width else 2 if weight.group == chunk else 3, ZERO=weight.zero_point is not None,
        BIAS=bias is not None, EVEN=width % BLOCK == 0, FEW=tokens <= tile.t, SPLITS=splits, PLAIN=not x.is_cuda,
        BLOCK_N=tile.n, BLOCK_T=tile.t, GROUP=8, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def expand(weight: LowBitWeight, dtype: torch.dtype) -> Tensor:
    """W_hat (O, K) in dtype, columns in the weight's order: scale * (q - zero) in float32, rounded once."""
    rows, width = weight.shape
    out = torch.empty(rows, width, dtype=dtype, device=weight.words.device)
    blocks = triton.cdiv(width, BLOCK)
    launch(
        _expand, (blocks, triton.cdiv(rows, 64)),
        weight.words, out, weight.scale, weight.zero_point, rows, width, blocks, weight.group,
        BITS=weight.bits, PLANE=PLANE, ZERO=weight.zero_point is not None, BLOCK_N=64,
    )  # fmt: skip
    return out


def tile_for(tokens: int, weight: LowBitWeight) -> Tile:
    """The tile that was quickest on an H100 and an H200 for so many tokens."""
    if tokens <= 16:
        return Tile(64, 16, BLOCK, 4, 3) if weight.bits == 4 else Tile(32, 16, BLOCK, 2, 4)
    if tokens <= 32:
        return Tile(64, 32, BLOCK, 4, 4)
    if tokens <= 64:
        return Tile(64, 64, BLOCK, 4, 4)
    return Tile(128, 128, BLOCK, 8, 3)


def splits_for(tokens: int, out: int, width: int) -> int:
    """Pieces that K is cut into: at least 1024 columns each, or 256 where few rows would leave multiprocessors idle."""
    if tokens > 32:
        return 1
    pieces = 1
    while pieces < 8 and width // (2 * pieces) >= (2 * BLOCK if pieces * out < 8192 else 8 * BLOCK):
        pieces *= 2
    return pieces
