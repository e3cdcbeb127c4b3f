"""One new token's attention over the filled part of a key-value cache, and its way into that cache.

    rotate_and_keep   q, k turned by the token's position (RoPE, arXiv 2104.09864, eq. 34); k and v into the cache
    attend            y = softmax(q K^T s) V over the positions up to the token's own

`attend` cuts the filled part into pieces, one program each, so that a single sequence keeps the whole GPU busy; each
leaves its largest score, its sum and its weighted values, and the last one to finish joins them (FlashDecoding, Dao et
al. 2023). Queries that share keys (grouped-query attention) are rows of one tile. Scores and sums are float32.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next, overlapping
from quantcore.numbers.kernels.triton_here import multiprocessors
from quantcore.numbers.kernels.turns import is_last

BLOCK = 64  # keys at a time
LEAST_ROWS = 16  # of a tile of the tensor cores
MOST_PIECES = 16
MOST_HEADS = 8  # that one program turns, where each head's own would be more programs than MOST_SINGLE: a power of two
MOST_SINGLE = 512


@triton.jit
def _rotate_and_keep(
    rows_ptr, cos_ptr, sin_ptr, place_ptr, keys_ptr, values_ptr, length,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    after_last(OVERLAP)
    let_next(OVERLAP)
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1) * HEADS
    place = tl.load(place_ptr)
    size: tl.constexpr = 2 * HALF
    dtype: tl.constexpr = rows_ptr.dtype.element_ty
    each, d = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    row = rows_ptr + (token * (QUERIES + 2 * KEYS) + head + each) * size
    low, high = tl.load(row + d), tl.load(row + HALF + d)
    if head < QUERIES + KEYS:
        cos_low, cos_high = tl.load(cos_ptr + place * size + d), tl.load(cos_ptr + place * size + HALF + d)
        sin_low, sin_high = tl.load(sin_ptr + place * size + d), tl.load(sin_ptr + place * size + HALF + d)
        turned_low = _product(low, cos_low, dtype) - _product(high, sin_low, dtype)
        turned_high = _product(high, cos_high, dtype) + _product(low, sin_high, dtype)
        low, high = turned_low.to(dtype), turned_high.to(dtype)
    if head < QUERIES:
        tl.store(row + d, low)
        tl.store(row + HALF + d, high)
    else:
        which = (head - QUERIES) % KEYS
        cache = keys_ptr if head < QUERIES + KEYS else values_ptr
        at = cache + ((token * KEYS + which + each) * length + place) * size
        tl.store(at + d, low)
        tl.store(at + HALF + d, high)


@triton.jit
def _product(a, b, dtype: tl.constexpr):
    """Rounded to the model's type, as transformers does, and wide again for the sum."""
    return (a.to(tl.float32) * b.to(tl.float32)).to(dtype).to(tl.float32)


@triton.jit
def _attend(
    rows_ptr, keys_ptr, values_ptr, place_ptr, y_ptr, parts_ptr, tops_ptr, sums_ptr, turns_ptr, scale, length,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr,
    BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    after_last(OVERLAP)
    let_next(OVERLAP)
    pair, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token, head = pair // KEYS, pair % KEYS
    shared: tl.constexpr = QUERIES // KEYS
    filled = tl.load(place_ptr) + 1
    each = tl.cdiv(tl.cdiv(filled, BLOCK), PIECES) * BLOCK
    begin = piece * each
    end = tl.minimum(begin + each, filled)
    r, d = tl.arange(0, ROWS), tl.arange(0, SIZE)
    mine = r < shared
    q_at = rows_ptr + (token * (QUERIES + 2 * KEYS) + head * shared + r)[:, None] * SIZE + d[None, :]
    q = tl.load(q_at, mask=mine[:, None], other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, SIZE], tl.float32)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        place = (pair * length + at)[:, None] * SIZE + d[None, :]
        k = tl.load(keys_ptr + place, mask=(at < end)[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((at < end)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(weights, 1)
        v = tl.load(values_ptr + place, mask=(at < end)[:, None], other=0.0)
        acc = acc * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    last = True
    if PIECES > 1:
        own = (pair * PIECES + piece) * ROWS + r
        tl.store(parts_ptr + own[:, None] * SIZE + d[None, :], acc)
        tl.store(tops_ptr + own, top)
        tl.store(sums_ptr + own, total)
        last = is_last(turns_ptr + pair, PIECES)
        if last:
            every = (pair * PIECES + tl.arange(0, PIECES))[:, None] * ROWS + r[None, :]
            tops = tl.load(tops_ptr + every, cache_modifier=".cg")
            top = tl.max(tops, 0)
            total = tl.sum(tl.load(sums_ptr + every, cache_modifier=".cg") * tl.exp(tops - top[None, :]), 0)
            acc = tl.zeros([ROWS, SIZE], tl.float32)
            for other in tl.static_range(PIECES):  # unrolled: no piece waits for another
                its = (pair * PIECES + other) * ROWS + r
                kept = tl.exp(tl.load(tops_ptr + its, cache_modifier=".cg") - top)
                at = its[:, None] * SIZE + d[None, :]
                acc += tl.load(parts_ptr + at, mask=mine[:, None], other=0.0, cache_modifier=".cg") * kept[:, None]
    if last:
        y_at = y_ptr + (token * QUERIES + head * shared + r)[:, None] * SIZE + d[None, :]
        tl.store(y_at, (acc / total[:, None]).to(y_ptr.dtype.element_ty), mask=mine[:, None])


def rotate_and_keep(
    rows: Tensor, cos: Tensor, sin: Tensor, place: Tensor, keys: Tensor, values: Tensor, queries: int
) -> None:
    """Turn the queries of each token where they lie, and write its key and value at `place` of the cache.

    Shapes: rows (N, (queries + 2 H) D), heads of q, k and v one behind the other; cos, sin (L, D); place (1,);
    keys, values (N, H, L, D), changed."""
    tokens, heads, length, size = keys.shape
    some = math.gcd(queries, heads, MOST_HEADS) if tokens * (queries + 2 * heads) > MOST_SINGLE else 1
    launch(
        _rotate_and_keep, (tokens, (queries + 2 * heads) // some), rows, cos, sin, place, keys, values, length,
        QUERIES=queries, KEYS=heads, HALF=size // 2, HEADS=some, num_warps=max(1, some * size // 512),
        enable_fp_fusion=False,  # rounded as in transformers
        **overlapping(rows.device),
    )  # fmt: skip


class Attention:
    """`attend` for N tokens over a cache of `heads` x `length` x `size`, `queries` heads asking; holds what its pieces
    leave. `pieces`: a power of two; None: as many as keep the GPU busy."""

    def __init__(
        self,
        tokens: int,
        queries: int,
        heads: int,
        size: int,
        length: int,
        device: torch.device,
        pieces: int | None = None,
    ) -> None:
        self.queries = queries
        pairs = tokens * heads
        self.rows = max(LEAST_ROWS, triton.next_power_of_2(queries // heads))
        most = max(1, min(MOST_PIECES, triton.cdiv(length, BLOCK), 2 * multiprocessors(device) // pairs))
        self.pieces = pieces or 1 << (most.bit_length() - 1)
        self.parts = torch.empty(pairs, self.pieces, self.rows, size, device=device)
        self.tops = torch.empty(pairs, self.pieces, self.rows, device=device)
        self.sums = torch.empty_like(self.tops)
        self.turns = torch.zeros(pairs, dtype=torch.int32, device=device)

    def attend(self, rows: Tensor, keys: Tensor, values: Tensor, place: Tensor, scale: float) -> Tensor:
        """Shapes: rows, keys, values and place as in `rotate_and_keep`; the result (N, queries D)."""
        tokens, heads, length, size = keys.shape
        y = rows.new_empty(tokens, self.queries * size)
        launch(
            _attend, (tokens * heads, self.pieces), rows, keys, values, place, y, self.parts, self.tops, self.sums,
            self.turns, scale, length, QUERIES=self.queries, KEYS=heads, SIZE=size, ROWS=self.rows, PIECES=self.pieces,
            BLOCK=BLOCK, num_warps=4, num_stages=1 if self.pieces == 1 else 2, **overlapping(rows.device),
        )  # fmt: skip
        return y
