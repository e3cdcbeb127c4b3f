"""16-bit tokens times codes of 2 to 8 bits: the weight is unpacked in registers, on its way to the tensor cores.

Codes are whole numbers, or e2m1, e2m3, e3m2, e4m3; scales are floats, or coded themselves (e8m0, e4m3).

    y[t, n] = bias[n] + sum over groups G of
                  scale[n, G] * ( sum_{k in G} x[t, k] q[n, k] - zero[n, G] * sum_{k in G} x[t, k] )

A code is a small whole number, exact in bf16 and fp16; the products of a group are summed in float32, then scaled in
float32. So the weight is never rounded to 16 bits: the result is nearer to the exact product of x with the dequantized
weight than a 16-bit matmul of a 16-bit W_hat is.

Groups of 16 columns are narrower than what the tensor cores take at once. NVFP4 has such groups, with e4m3 scales under
one global scale: a value of e2m1 times such a scale has 6 bits, exact in bf16 and fp16, so the scale is multiplied to
the unpacked weight, and the global one to y.

For few tokens K is cut into pieces, a program each, so that enough loads are under way. The program that finishes a
tile last adds up the pieces, in their order, so that the result is always the same. Up to 16 tokens
`few_tokens_matmul` is quicker, on the same layout (`low_bit_weight`), as long as x fits a multiprocessor's cache.

What the bytes allow at K 4096, N 14336, group 128: codes 29.4 MB and scales 1.8 MB against 117 MB in bf16, 3.8 times.
What holds this kernel is not memory: it took 16 us on an H100 and on an H200 alike, whose memory is 1.4 times as fast.
Planes of 64 columns, fewer instructions a weight, were slower on an H100 (18.4 us against 15.4, one token).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.kernels.codes_matmul import Tile
from quantcore.matmul.kernels.low_bit_weight import BLOCK, PLANE, LowBitWeight
from quantcore.matmul.kernels.tile_order import GROUP, place
from quantcore.matmul.kernels.unpacking import byte_values, plane, scale_of, scales_of_pairs
from quantcore.numbers.formats import FP8_E4M3
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next, overlapping
from quantcore.numbers.kernels.turns import is_last


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
    global_ptr,
    sx_ptr,
    bias_ptr,
    N,
    T,
    K,
    blocks,  # of 128 columns, K padded
    group,
    BITS: tl.constexpr,
    FLOATS: tl.constexpr,  # e2m1, or e4m3 in bytes
    POWERS: tl.constexpr,  # scales are exponents
    PAIRS: tl.constexpr,  # groups of 16 with e4m3 scales, two at a time
    NATIVE: tl.constexpr,  # e4m3's codes are of that type: the GPU unpacks them
    PLANE: tl.constexpr,
    CHUNK: tl.constexpr,  # columns of a block that share a scale
    GROUPS: tl.constexpr,  # 1: the whole row shares one; 2: each CHUNK has its own; 3: several CHUNKs share one
    ZERO: tl.constexpr,
    SCALES: tl.constexpr,  # of x, codes of which are multiplied: 0 none, 1 one for all tokens, 2 one each
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,  # K is a multiple of 128
    FEW: tl.constexpr,  # T <= BLOCK_T
    SPLITS: tl.constexpr,  # > 1: partial sums go through parts, float32 (SPLITS, T, N)
    PLAIN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    GROUP: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_last(OVERLAP)
    tile = tl.program_id(0)
    if FEW:
        pid_n, pid_t = tile, 0
    else:
        pid_n, pid_t = place(tile, tl.cdiv(N, BLOCK_N), tl.cdiv(T, BLOCK_T), GROUP)
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
            for part in tl.static_range(4):
                k = (block * 4 + part) * PLANE
                if EVEN:
                    x = tl.load(x_at + k, mask=(t < T)[:, None], other=0.0)
                else:
                    x = tl.load(x_at + k, mask=(t < T)[:, None] & (k + j[None, :] < K), other=0.0)
                w = plane(words, part, FLOATS, dtype, PLAIN)
                if PAIRS:
                    w = (w * scales_of_pairs(scale_ptr, k, N, row_n, j).to(dtype)).to(dtype)
                    acc = tl.dot(w, tl.trans(x), acc)
                else:
                    partial = tl.dot(w, tl.trans(x), partial)
                if ZERO:
                    sums += tl.sum(x.to(tl.float32), 1)
                if (part + 1) * PLANE % CHUNK == 0 and not PAIRS:
                    at = group_of(k, K, group, CHUNK, GROUPS) * N + row_n
                    if ZERO:
                        partial -= tl.load(zero_ptr + at).to(tl.float32)[:, None] * sums[None, :]
                        sums = tl.zeros([BLOCK_T], tl.float32)
                    acc += partial * scale_of(scale_ptr, k, at, N, row_n, POWERS)[:, None]
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
            if FLOATS and not NATIVE:
                w = byte_values(codes, True).to(dtype)
            else:
                w = codes.to(dtype)
            partial = tl.dot(w, tl.trans(x))
            at = group_of(k, K, group, CHUNK, GROUPS) * N + row_n
            if ZERO:
                partial -= tl.load(zero_ptr + at).to(tl.float32)[:, None] * tl.sum(x.to(tl.float32), 1)[None, :]
            acc += partial * scale_of(scale_ptr, k, at, N, row_n, POWERS)[:, None]
    let_next(OVERLAP)
    out = tl.trans(acc)
    if PAIRS:
        out = tl.div_rn(out, tl.load(global_ptr) + tl.zeros_like(out))
    in_n, in_t = n < N, t < T
    inside = in_t[:, None] & in_n[None, :]
    at = t.to(tl.int64)[:, None] * N + n[None, :]
    last = True
    if SPLITS > 1:
        size_y = T.to(tl.int64) * N
        tl.store(parts_ptr + split * size_y + at, out, mask=inside)
        last = is_last(turns_ptr + tile, SPLITS)
        if last:
            out = tl.load(parts_ptr + at, mask=inside, other=0.0, cache_modifier=".cg")
            for other in range(1, SPLITS):
                out += tl.load(parts_ptr + other * size_y + at, mask=inside, other=0.0, cache_modifier=".cg")
    if last:
        if SCALES > 0:
            out *= tl.load(sx_ptr + row_t * (SCALES - 1))[:, None]
        if BIAS:
            out += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
        tl.store(y_ptr + at, out.to(y_ptr.dtype.element_ty), mask=inside)


def scales_of(scale: Tensor | None) -> int:
    """The kernels' SCALES."""
    return 0 if scale is None else 1 if scale.numel() == 1 else 2


def multiply_packed(
    x: Tensor,
    weight: LowBitWeight,
    bias: Tensor | None,
    tile: Tile | None = None,
    splits: int | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """y (N, O) in the dtype of x, which is bf16 or fp16. Shape of x: (N, K), contiguous, columns in the weight's
    order; with `scale`, (N,) or (1,) in float32, x holds codes and y is multiplied by it."""
    tokens, width = x.shape
    out = weight.shape[0]
    tile = tile or tile_for(tokens, weight)
    splits = splits or splits_for(tokens, out, width)
    chunk = weight.columns_a_scale
    y = torch.empty(tokens, out, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(out, tile.n) * triton.cdiv(tokens, tile.t)
    if tiles > len(weight.turns):
        splits = 1
    native = weight.floats and weight.bits == 8 and x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9)
    words = weight.words.view(FP8_E4M3.storage) if native else weight.words
    parts = torch.empty(splits, tokens, out, dtype=torch.float32, device=x.device) if splits > 1 else None
    launch(
        _multiply_packed, (tiles, splits),
        words, x, y, parts, weight.turns, weight.scale, weight.zero_point, weight.global_scale, scale, bias,
        out, tokens, width, triton.cdiv(width, BLOCK), weight.group,
        BITS=weight.bits, **weight.kinds, NATIVE=native, PLANE=PLANE, CHUNK=chunk,
        GROUPS=1 if weight.group >= width else 2 if weight.group == chunk else 3, ZERO=weight.zero_point is not None,
        SCALES=scales_of(scale), BIAS=bias is not None, EVEN=width % BLOCK == 0, FEW=tokens <= tile.t, SPLITS=splits,
        PLAIN=not x.is_cuda, BLOCK_N=tile.n, BLOCK_T=tile.t, GROUP=GROUP, num_warps=tile.warps, num_stages=tile.stages,
        **overlapping(x.device, crowd=tokens),
    )  # fmt: skip
    return y


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
