"""A few tokens of 16 bits times 4-bit codes: each thread unpacks straight into its operand of the tensor cores.

The product and the layout are those of `low_bit_matmul`, whose kernel sends every unpacked weight through shared memory
to the thread that multiplies it. Here no weight moves between threads. A tensor-core instruction m16n8k16 wants of lane
4 g + c, for the weight (16 rows x 16 columns):

    a0  row g,     two columns          a2  row g,     two others
    a1  row g + 8, the columns of a0    a3  row g + 8, the columns of a2

and for x of token g the same four columns, b0 and b1; which columns of K they are is ours to choose. In a block of 128
columns the lane reads 16 bytes of row g and 16 of row g + 8, eight words each: words 8 c to 8 c + 7. Two words side by
side are one register; its plane p, unpacked, is columns 32 p + 8 c + 2 q and the next, q = 0..3. So four 16-byte pieces
of x, columns 32 p + 8 c to 32 p + 8 c + 7, hold what goes with them, and registers 2 i and 2 i + 1 of plane p make one
instruction: eight for a block. What it wants of x lies side by side in registers, as it must, from the load on. The
warp's loads of the weight are 512 bytes in a row.

Coded scales (NVFP4, MXFP4) are multiplied to the unpacked weight: what a lane has of a plane are 8 neighbouring
columns, of one group also where a group has 16. A block's scales of a row lie together, so a lane reads its four in one
register.

A program has a few tiles of 16 rows. Its warps take blocks of K in turn; their sums are added in the order of the
warps, so the result is always the same. A group's sums are scaled in float32 when the group ends, as there. The next
words are on their way while these are multiplied, the first before the kernel before this one has ended.

Every tensor here has one element a thread (element i is thread i's), so that assembler says what a thread does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.kernels.low_bit_matmul import group_of, scales_of
from quantcore.matmul.kernels.low_bit_weight import BLOCK, LowBitWeight
from quantcore.matmul.kernels.unpacking import rest_of, scale_pair, unpack, unpack_scaled
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next, overlapping
from quantcore.numbers.kernels.stack import stacked

MOST_TOKENS = 16
MOST_OF_X = 1 << 17  # numbers of x, 256 KiB; a multiprocessor's cache holds no more, and every program reads them all
TOKENS = 8  # of one instruction
_LOAD = "{{ .reg .pred p; setp.ne.b32 p, $5, 0; mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; "
_LOAD += "@p ld.global{0}.v4.b32 {{$0, $1, $2, $3}}, [$4]; }}"
OF_WEIGHT = ".L1::no_allocate"  # it is read once
WEIGHTS = tl.constexpr(_LOAD.format(OF_WEIGHT))
PIECE = tl.constexpr(_LOAD.format(""))


def _loads(count: int, apart: int, kind: str = "", where: str = "") -> str:
    """`count` loads of 16 bytes of a `kind`, `apart` bytes apart, from one address, under a condition."""
    registers = [f"${4 * i}, ${4 * i + 1}, ${4 * i + 2}, ${4 * i + 3}" for i in range(count)]
    pairs = enumerate(registers)
    return " ".join(f"{where} ld.global{kind}.v4.b32 {{{four}}}, [${4 * count} + {apart * i}];" for i, four in pairs)


ROW_AND_ROW_8 = tl.constexpr(f"{{ .reg .pred p; setp.ne.b32 p, $9, 0; {_loads(2, 8 * 64, OF_WEIGHT, '@p')} }}")
FOUR_PLANES = tl.constexpr(_loads(4, 64))
_MMA = "mma.sync.aligned.m16n8k16.row.col.f32.{0}.{0}.f32 "
_MMA += "{{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, {{$10, $11, $12, $13}};"
BF16_MMA = tl.constexpr(_MMA.format("bf16"))
FP16_MMA = tl.constexpr(_MMA.format("f16"))


class FewTile(NamedTuple):
    """`tiles` of 16 rows a program, `warps` that share K, `blocks` of 128 columns that are loaded at once; at most
    `registers` a thread, so that all programs run at once: a second wave would take as long as the first."""

    tiles: int
    warps: int
    blocks: int
    registers: int | None = None


@triton.jit
def _load(address, wanted, CODE: tl.constexpr):
    """16 bytes as four registers; zeros where not wanted."""
    return tl.inline_asm_elementwise(
        CODE, "=&r,=&r,=&r,=&r,l,r", [address, wanted], dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=False,
        pack=1,
    )  # fmt: skip


@triton.jit
def _words(w_ptr, block, blocks, row, c, N, EVEN: tl.constexpr):
    """Of rows `row` and `row + 8`: four registers each of a block, of none where there is no such block. These loads
    stay where they are, to begin early."""
    wanted = (block < blocks).to(tl.int32)
    if EVEN:
        at = w_ptr + (block.to(tl.int64) * N + row) * 32 + 8 * c
        return tl.inline_asm_elementwise(
            ROW_AND_ROW_8, "=r,=r,=r,=r,=r,=r,=r,=r,l,r", [at.to(tl.int64), wanted],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32), is_pure=False,
            pack=1,
        )  # fmt: skip
    else:
        upper = w_ptr + (block.to(tl.int64) * N + tl.minimum(row, N - 1)) * 32 + 8 * c
        lower = w_ptr + (block.to(tl.int64) * N + tl.minimum(row + 8, N - 1)) * 32 + 8 * c
        above = _load(upper.to(tl.int64), wanted, WEIGHTS)
        return above + _load(lower.to(tl.int64), wanted, WEIGHTS)


@triton.jit
def _step_words(
    w_ptr, step, blocks, warp, row, c, N, TILES: tl.constexpr, WARPS: tl.constexpr, BLOCKS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    words = ()
    for i in tl.static_range(BLOCKS):
        for tile in tl.static_range(TILES):
            words = words + _words(w_ptr, (step + i) * WARPS + warp, blocks, row + 16 * tile, c, N, EVEN)
    return words


@triton.jit
def _pieces(x_ptr, block, blocks, token, c, T, K, EVEN: tl.constexpr):
    """Of a token, or of the last where there are fewer: four registers for each plane of a block."""
    at = x_ptr + tl.minimum(token, T - 1).to(tl.int64) * K + block * 128 + 8 * c
    if EVEN:
        return tl.inline_asm_elementwise(
            FOUR_PLANES, "=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,=r,l", [at.to(tl.int64)],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32,
                   tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=False, pack=1,
        )  # fmt: skip
    else:
        pieces = ()
        for plane in tl.static_range(4):
            wanted = ((block < blocks) & (block * 128 + 32 * plane + 8 * c < K)).to(tl.int32)
            pieces = pieces + _load((at + 32 * plane).to(tl.int64), wanted, PIECE)
        return pieces


@triton.jit
def _scale_codes(scale_ptr, block, blocks, row, c, N, PAIRS: tl.constexpr):
    """A lane's scales of a row in a block: four bytes, a plane each."""
    place = (block * N + tl.minimum(row, N - 1)) * 2 + c // 2 if PAIRS else block * N + tl.minimum(row, N - 1)
    return tl.load(scale_ptr + place, mask=block < blocks, other=0)


@triton.jit
def _mma(acc, a0, a1, a2, a3, b0, b1, BF16: tl.constexpr):
    code: tl.constexpr = BF16_MMA if BF16 else FP16_MMA
    return tl.inline_asm_elementwise(
        code, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", [a0, a1, a2, a3, b0, b1, acc[0], acc[1], acc[2], acc[3]],
        dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["T", "blocks"])
def _multiply_few(
    w_ptr,
    x_ptr,
    y_ptr,
    scale_ptr,
    zero_ptr,
    global_ptr,
    sx_ptr,
    bias_ptr,
    N,
    T,
    K,
    blocks,
    CODED: tl.constexpr,  # scales in bytes, codes of e2m1
    PAIRS: tl.constexpr,  # e4m3 scales of groups of 16, else e8m0 ones of planes
    GROUP: tl.constexpr,  # columns that share a scale, 0: the whole row does
    HALVES: tl.constexpr,  # 2: each 64 columns have their own scale; 1: 128 share one
    ZERO: tl.constexpr,
    SCALES: tl.constexpr,  # of x, codes of which are multiplied: 0 none, 1 one for all tokens, 2 one each
    BIAS: tl.constexpr,
    BF16: tl.constexpr,
    TOKEN_TILES: tl.constexpr,  # of 8 tokens
    TILES: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCKS: tl.constexpr,
    EVEN: tl.constexpr,  # tiles fill the rows, and steps of all warps the blocks
    OVERLAP: tl.constexpr,
):
    thread = tl.arange(0, 32 * WARPS)
    warp, g, c = thread // 32, (thread % 32) // 4, thread % 4
    first_row = tl.program_id(0) * (16 * TILES)
    ahead = _step_words(w_ptr, 0, blocks, warp, first_row + g, c, N, TILES, WARPS, BLOCKS, EVEN)
    after_last(OVERLAP)
    zeros = tl.zeros([32 * WARPS], tl.float32)
    ones = tl.full([32 * WARPS], 0x3F803F80 if BF16 else 0x3C003C00, tl.int32)  # 1.0 twice
    sums = ()
    for _ in tl.static_range(TILES * TOKEN_TILES * 4):
        sums = sums + (zeros,)
    for step in range(0, tl.cdiv(blocks, WARPS), BLOCKS):
        words = ahead
        ahead = _step_words(w_ptr, step + BLOCKS, blocks, warp, first_row + g, c, N, TILES, WARPS, BLOCKS, EVEN)
        for i in tl.static_range(BLOCKS):
            block = (step + i) * WARPS + warp
            pieces = ()
            for token_tile in tl.static_range(TOKEN_TILES):
                pieces = pieces + _pieces(x_ptr, block, blocks, 8 * token_tile + g, c, T, K, EVEN)
            for h in tl.static_range(HALVES):
                totals = ()
                if ZERO:
                    for token_tile in tl.static_range(TOKEN_TILES):
                        acc = (zeros, zeros, zeros, zeros)
                        for pair in tl.static_range(8 * h // HALVES, 8 * (h + 1) // HALVES):
                            b0 = pieces[16 * token_tile + 2 * pair]
                            b1 = pieces[16 * token_tile + 2 * pair + 1]
                            acc = _mma(acc, ones, ones, ones, ones, b0, b1, BF16)
                        totals = totals + acc
                group_at = group_of(block * 128 + 64 * h, K, GROUP, GROUP, 1 if GROUP == 0 else 2) * N
                scaled = ()
                for tile in tl.static_range(TILES):
                    accs = ()
                    for _ in tl.static_range(TOKEN_TILES):
                        accs = accs + (zeros, zeros, zeros, zeros)
                    if CODED:
                        upper = _scale_codes(scale_ptr, block, blocks, first_row + 16 * tile + g, c, N, PAIRS)
                        lower = _scale_codes(scale_ptr, block, blocks, first_row + 16 * tile + 8 + g, c, N, PAIRS)
                    for plane in tl.static_range(4 * h // HALVES, 4 * (h + 1) // HALVES):
                        if CODED:
                            above = scale_pair(upper >> (8 * plane), PAIRS, BF16)
                            below = scale_pair(lower >> (8 * plane), PAIRS, BF16)
                        for pair in tl.static_range(2):
                            if CODED:
                                a0 = unpack_scaled(words[(i * TILES + tile) * 8 + 2 * pair], above, plane, PAIRS, BF16)
                                a1 = unpack_scaled(
                                    words[(i * TILES + tile) * 8 + 2 * pair + 4], below, plane, PAIRS, BF16
                                )
                                a2 = unpack_scaled(
                                    words[(i * TILES + tile) * 8 + 2 * pair + 1], above, plane, PAIRS, BF16
                                )
                                a3 = unpack_scaled(
                                    words[(i * TILES + tile) * 8 + 2 * pair + 5], below, plane, PAIRS, BF16
                                )
                            else:
                                a0 = unpack(words[(i * TILES + tile) * 8 + 2 * pair], plane, BF16)
                                a1 = unpack(words[(i * TILES + tile) * 8 + 2 * pair + 4], plane, BF16)
                                a2 = unpack(words[(i * TILES + tile) * 8 + 2 * pair + 1], plane, BF16)
                                a3 = unpack(words[(i * TILES + tile) * 8 + 2 * pair + 5], plane, BF16)
                            moved = ()
                            for token_tile in tl.static_range(TOKEN_TILES):
                                b0 = pieces[16 * token_tile + 4 * plane + 2 * pair]
                                b1 = pieces[16 * token_tile + 4 * plane + 2 * pair + 1]
                                acc = (
                                    accs[4 * token_tile],
                                    accs[4 * token_tile + 1],
                                    accs[4 * token_tile + 2],
                                    accs[4 * token_tile + 3],
                                )
                                moved = moved + _mma(acc, a0, a1, a2, a3, b0, b1, BF16)
                            accs = moved
                    for e in tl.static_range(2):
                        row = tl.minimum(first_row + 16 * tile + 8 * e + g, N - 1)
                        scale = rest_of(PAIRS, BF16) if CODED else tl.load(scale_ptr + group_at + row)
                        if ZERO:
                            zero = tl.load(zero_ptr + group_at + row).to(tl.float32)
                        for token_tile in tl.static_range(TOKEN_TILES):
                            for odd in tl.static_range(2):
                                part = accs[4 * token_tile + 2 * e + odd]
                                if ZERO:
                                    part -= zero * totals[4 * token_tile + odd]
                                scaled = scaled + (part * scale,)
                added = ()
                for j in tl.static_range(TILES * TOKEN_TILES * 4):
                    added = added + (sums[j] + scaled[j],)
                sums = added
    let_next(OVERLAP)
    # sums[((tile * 2 + e) * TOKEN_TILES + token_tile) * 2 + odd]
    added = ()  # one by one: all at once would meet in the same banks of shared memory
    for j in tl.static_range(TILES * TOKEN_TILES * 4):
        added = added + (tl.sum(tl.reshape(sums[j], [WARPS, 32]), 0),)
    out = stacked(added)
    if PAIRS:
        out = tl.div_rn(out, tl.load(global_ptr) + tl.zeros_like(out))
    lane = tl.arange(0, 32)[:, None]
    place = tl.arange(0, TILES * TOKEN_TILES * 4)[None, :]
    n = first_row + 8 * (place // (2 * TOKEN_TILES)) + lane // 4
    t = 8 * (place // 2 % TOKEN_TILES) + 2 * (lane % 4) + place % 2
    if SCALES > 0:
        out *= tl.load(sx_ptr + t * (SCALES - 1), mask=t < T, other=0.0)
    if BIAS:
        out += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(y_ptr + t * N + n, out.to(y_ptr.dtype.element_ty), mask=(n < N) & (t < T))


def takes(x: Tensor, weight: LowBitWeight) -> bool:
    """Whether this kernel multiplies so many tokens by such a weight, and does it quickest."""
    return (
        x.is_cuda
        and len(x) <= MOST_TOKENS
        and x.numel() <= MOST_OF_X
        and weight.bits == 4
        and weight.shape[1] % 8 == 0
        and x.data_ptr() % 16 == 0
        and (_scales_fit(weight, x.dtype) if weight.floats else weight.is_plain and _wide(weight))
    )


def _scales_fit(weight: LowBitWeight, dtype: torch.dtype) -> bool:
    """Whether scales can be multiplied to the weight: e8m0's are beyond fp16."""
    return weight.pairs or (weight.scale.dtype == torch.uint8 and dtype == torch.bfloat16)


def _wide(weight: LowBitWeight) -> bool:
    return weight.group % 64 == 0 or weight.group >= weight.shape[1]


def multiply_few(
    x: Tensor, weight: LowBitWeight, bias: Tensor | None, tile: FewTile | None = None, scale: Tensor | None = None
) -> Tensor:
    """y (N, O) in the dtype of x, bf16 or fp16. Shape of x: (N, K), contiguous, columns in the weight's order; with
    `scale`, (N,) or (1,) in float32, x holds codes and y is multiplied by it."""
    tokens, (out, width) = len(x), weight.shape
    tile = tile or tile_for(tokens, out)
    coded = weight.scale.dtype == torch.uint8
    group = 0 if weight.group >= width or coded else weight.group
    scales = weight.scale.view(torch.int32) if coded else weight.scale
    y = torch.empty(tokens, out, dtype=x.dtype, device=x.device)
    launch(
        _multiply_few, (triton.cdiv(out, 16 * tile.tiles),),
        weight.words, x, y, scales, weight.zero_point, weight.global_scale, scale, bias,
        out, tokens, width, triton.cdiv(width, BLOCK), CODED=coded, PAIRS=weight.pairs,
        GROUP=group, HALVES=1 if group % BLOCK == 0 else 2, ZERO=weight.zero_point is not None,
        SCALES=scales_of(scale), BIAS=bias is not None,
        BF16=x.dtype == torch.bfloat16,
        TOKEN_TILES=triton.next_power_of_2(triton.cdiv(tokens, TOKENS)), TILES=tile.tiles, WARPS=tile.warps,
        BLOCKS=tile.blocks, EVEN=out % (16 * tile.tiles) == 0 and width % (BLOCK * tile.warps * tile.blocks) == 0,
        num_warps=tile.warps, maxnreg=tile.registers, **overlapping(x.device),
    )  # fmt: skip
    return y


def tile_for(tokens: int, out: int) -> FewTile:
    """The tile that was quickest on an H200 for so many rows: 1 to 8 tokens, and 9 to 16."""
    if tokens <= TOKENS:
        return FewTile(1, 4, 1, 72) if out >= 8192 else FewTile(1, 8, 1, 72)
    return FewTile(2, 4, 1, 128) if out >= 6144 else FewTile(1, 4, 1, 80)
