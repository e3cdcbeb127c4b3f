"""The Cholesky factorization that GPTQ needs, in one launch: H, sorted and damped, in; `pull` and M's diagonal out.

M is upper triangular with H = M M^T in visiting order (see `gptq`): the lower triangular factor L of H with both axes
reversed, reversed alike. Place a of the factorization is step K - 1 - a of the visit. Everything here is scaled to a
diagonal of ones, A_ab = H_ab / (d_a d_b), d_a^2 = H_aa, so that no |L_ab| is above 1 and two float16 numbers hold it to
2^-24: a product on tensor cores is then as good as one in float32, of which it has a tenth of the time.

L lies in square tiles. A program draws one, column by column of tiles, and

    1. subtracts L_ik L_jk^T for every tile k to the left, as soon as row i and row j have got so far,
    2. on the diagonal: factors what is left and inverts the factor (`_factor_tile`),
       else: multiplies what is left by the inverse of L_jj^T, which is L_ij,
    3. stores it and says that its row has one tile more.

Whatever a tile waits for was drawn before it, by a program that runs: nothing can wait for ever, and the tiles near the
diagonal, which all others wait for, are begun before they are needed. The time of a small matrix is that of the
diagonal's tiles one after another; that of a large one is its products.

Source: left-looking tiled Cholesky, Buttari, Langou, Kurzak, Dongarra 2009, "A class of parallel tiled linear algebra
algorithms for multicore architectures", arXiv:0709.1272; scaling to a unit diagonal: Higham 2002, "Accuracy and
Stability of Numerical Algorithms", section 10.1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.stack import stacked, thirty_two
from quantcore.numbers.kernels.triton_here import multiprocessors

PANEL = 32  # columns that a warp's lanes factor by shuffles, one row a lane
LARGE = 8192  # from this width on the products take longest, which large tiles suit


@triton.jit
def _finished(progress_ptr, i, j, WARPS: tl.constexpr, PLAIN: tl.constexpr):
    """How many tiles of rows i and j are done; what they hold may be read. One answer for all threads."""
    at = progress_ptr + tl.where(tl.arange(0, 32 * WARPS) % 2 == 0, i, j)
    if PLAIN:
        found = tl.load(at)
    else:
        found = tl.inline_asm_elementwise(
            "ld.acquire.gpu.global.s32 $0, [$1];", "=r,l,~{memory}", [at], tl.int32, is_pure=False, pack=1
        )
    return tl.min(found, 0)


@triton.jit
def _given(hessian_ptr, columns_ptr, shift, a, b, width):
    """(rows a and columns b of the scaled matrix, d_a, d_b); ones on the diagonal past the last place."""
    row = tl.load(columns_ptr + width - 1 - a, mask=a < width, other=0)
    column = tl.load(columns_ptr + width - 1 - b, mask=b < width, other=0)
    row_square = tl.load(hessian_ptr + row * (width + 1)) + shift
    column_square = tl.load(hessian_ptr + column * (width + 1)) + shift
    inside = (a < width)[:, None] & (b < width)[None, :]
    x = tl.load(hessian_ptr + row[:, None] * width + column[None, :], mask=inside, other=0.0)
    x = x * tl.rsqrt(row_square)[:, None] * tl.rsqrt(column_square)[None, :]
    return tl.where(a[:, None] == b[None, :], 1.0, x), tl.sqrt(row_square), tl.sqrt(column_square)


@triton.jit
def _at(x, lane: tl.constexpr):
    """What one lane holds, for all lanes."""
    return tl.gather(x, tl.full(x.shape, lane, tl.int32), 1)


@triton.jit
def _eliminate(own, others):
    """A block's columns and those of rows beside it, each a tuple of 32 tensors (n, 32) with a row a lane: the same
    right of L^-T, L L^T the block. Every n holds the same block.

    A pivot is foretold from the column before it, by all lanes: what waits for a pivot is only the next one."""
    pivot = _at(own[0], 0)
    for j in tl.static_range(32):
        inverse = tl.rsqrt(pivot)
        if j < 31:
            ahead = _at(own[j], j + 1) * inverse
            pivot = _at(own[j + 1], j + 1) - ahead * ahead
        mine = own[j] * inverse
        other = others[j] * inverse
        left_own = ()
        left_others = ()
        for k in tl.static_range(32):
            if k < j:
                left_own = left_own + (own[k],)
                left_others = left_others + (others[k],)
            elif k == j:
                left_own = left_own + (mine,)
                left_others = left_others + (other,)
            else:
                below = _at(own[j], k)
                left_own = left_own + (own[k] - mine * inverse * below,)
                left_others = left_others + (others[k] - other * inverse * below,)
        own = left_own
        others = left_others
    return own, others


@triton.jit
def _product(high, low, high_beside, low_beside):
    """A product of float32 numbers in halves, each the sum of its two; what is left out is below 2^-22 of it."""
    return tl.dot(high, high_beside, tl.dot(high, low_beside, tl.dot(low, high_beside)))


@triton.jit
def _factor_tile(x, scratch_ptr, blocks_ptr, high_ptr, low_ptr, TILE: tl.constexpr, WARPS: tl.constexpr):
    """Factors a tile of the diagonal, PANEL columns at a time, and inverts the factor as it goes: a row that is done
    holds the inverse's, L^-T, one to come what is left of it.

    high, low   (TILE, TILE), column after column: L^-T, and below its blocks of PANEL rows those of L
    blocks      (TILE, PANEL), column after column: L's blocks on the diagonal"""
    PANELS: tl.constexpr = TILE // 32
    r = tl.arange(0, TILE)
    lane = tl.arange(0, 32)
    row = tl.arange(0, 32 * WARPS) % TILE  # a warp more than there are rows for does another's work again
    mine = tl.arange(0, 32 * WARPS) < TILE
    for p in range(PANELS):
        tl.store(scratch_ptr + r[None, :] * TILE + r[:, None], x, mask=(r // 32 >= p)[None, :])
        tl.debug_barrier()
        column = p * 32 + lane
        own = tl.load(scratch_ptr + column[None, :] * TILE + (p * 32 + row % 32)[:, None])
        others = tl.load(scratch_ptr + column[None, :] * TILE + row[:, None])
        one = tl.where((row % 32)[:, None] == lane[None, :], 1.0, 0.0)
        others = tl.where((row // 32 == p)[:, None], one, others)
        own, others = _eliminate(
            thirty_two(tl.reshape(own, [WARPS, 32, 32])), thirty_two(tl.reshape(others, [WARPS, 32, 32]))
        )
        own = stacked(own)
        others = stacked(others)
        at = column[None, :] * TILE + row[:, None]
        high = others.to(tl.float16)
        tl.store(high_ptr + at, high, mask=mine[:, None])
        tl.store(low_ptr + at, (others - high.to(tl.float32)).to(tl.float16), mask=mine[:, None])
        tl.store(blocks_ptr + column[None, :] * 32 + row[:, None], own, mask=row[:, None] < 32)
        tl.debug_barrier()
        if p + 1 < PANELS:
            panel = (p * 32 + lane)[:, None] * TILE + r[None, :]
            left = tl.load(high_ptr + panel)
            left_low = tl.load(low_ptr + panel)
            below = (r // 32 > p)[None, :]
            x = tl.where((r // 32 == p)[:, None], 0.0, x)
            x -= _product(
                tl.trans(left), tl.trans(left_low), tl.where(below, left, 0.0), tl.where(below, left_low, 0.0)
            )


@triton.jit(do_not_specialize=["tiles"])
def _factor(
    hessian_ptr,
    columns_ptr,
    shift_ptr,
    pull_ptr,
    diagonal_ptr,
    high_ptr,
    low_ptr,
    scratch_ptr,
    blocks_ptr,
    progress_ptr,
    width,
    tiles,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    WARPS: tl.constexpr,
    PLAIN: tl.constexpr,
):
    drawn_ptr = progress_ptr + tiles
    shift = tl.load(shift_ptr)
    r = tl.arange(0, TILE)
    in_tile = r[:, None] * TILE + r[None, :]
    in_chunk = r[:, None] * TILE + tl.arange(0, CHUNK)[None, :]
    before = 0
    j = 0
    drawn = tl.atomic_add(drawn_ptr, 1, sem="relaxed")
    while drawn < tiles * (tiles + 1) // 2:
        while drawn - before >= tiles - j:
            before += tiles - j
            j += 1
        i = j + drawn - before
        a = i * TILE + r
        b = j * TILE + r
        x, row_size, column_size = _given(hessian_ptr, columns_ptr, shift, a, b, width)
        above = i.to(tl.int64) * tiles * TILE * TILE
        beside = tl.cast(j, tl.int64) * tiles * TILE * TILE
        done = 0
        while done < j:
            ready = tl.minimum(_finished(progress_ptr, i, j, WARPS, PLAIN), j)
            for chunk in range(done * (TILE // CHUNK), ready * (TILE // CHUNK)):
                at = chunk // (TILE // CHUNK) * TILE * TILE + chunk % (TILE // CHUNK) * CHUNK + in_chunk
                high = tl.load(high_ptr + above + at)
                low = tl.load(low_ptr + above + at)
                high_beside = tl.trans(tl.load(high_ptr + beside + at))
                low_beside = tl.trans(tl.load(low_ptr + beside + at))
                # Rounded to nearest here: a sum inside the tensor cores is cut off at every step.
                x -= _product(high, low, high_beside, low_beside)
            done = ready
        own = j * TILE * TILE
        blocks = blocks_ptr + j * TILE * 32
        if i == j:
            _factor_tile(x, scratch_ptr + own, blocks, high_ptr + beside + own, low_ptr + beside + own, TILE, WARPS)
            tl.atomic_xchg(progress_ptr + i, j + 1, sem="release")
        else:
            high = x.to(tl.float16)
            low = (x - high.to(tl.float32)).to(tl.float16)
            while _finished(progress_ptr, j, j, WARPS, PLAIN) <= j:
                pass
            wanted = (r // 32)[:, None] >= (r // 32)[None, :]
            high_inverse = tl.trans(tl.load(high_ptr + beside + own + in_tile, mask=wanted, other=0.0))
            low_inverse = tl.trans(tl.load(low_ptr + beside + own + in_tile, mask=wanted, other=0.0))
            x = _product(high, low, high_inverse, low_inverse)
            high = x.to(tl.float16)
            tl.store(high_ptr + above + own + in_tile, high)
            tl.store(low_ptr + above + own + in_tile, (x - high.to(tl.float32)).to(tl.float16))
            tl.debug_barrier()  # all threads have stored
            tl.atomic_xchg(progress_ptr + i, j + 1, sem="release")
        # What nobody waits for: pull's entry at row K - 1 - b and column K - 1 - a, L_ab d_a / M_b.
        last = tl.load(blocks + r * 32 + r % 32) * column_size
        if i == j:
            tl.store(diagonal_ptr + width - 1 - b, last, mask=b < width)
            high = tl.load(high_ptr + beside + own + in_tile)
            low = tl.load(low_ptr + beside + own + in_tile)
            block = tl.load(blocks + r[:, None] * 32 + (r % 32)[None, :])
            x = tl.where((r // 32)[:, None] == (r // 32)[None, :], block, high.to(tl.float32) + low.to(tl.float32))
        else:
            x = tl.trans(x)
        at = pull_ptr + (width - 1 - b).to(tl.int64)[:, None] * width + (width - 1 - a)[None, :]
        wanted = (b < width)[:, None] & (a < width)[None, :] & (a[None, :] >= b[:, None])
        tl.store(at, x * row_size[None, :] / last[:, None], mask=wanted)
        drawn = tl.atomic_add(drawn_ptr, 1, sem="relaxed")


def factor_of(hessian: Tensor, columns: Tensor, damp: float) -> tuple[Tensor, Tensor]:
    """pull (K, K), of which only the lower triangle is written, and M's diagonal (K,), both float32.

    Shapes: hessian (K, K) float32, contiguous, symmetric; columns (K,) int64, the column visited at each step. damp
    times the diagonal's mean is added to the diagonal. Where that is not positive definite, the diagonal is NaN from
    some step down to the first.
    Memory: 4 bytes for each number of H beside what is returned."""
    width = len(hessian)
    tile = 128 if width > LARGE and _large_tiles_fit(hessian.device) else 64
    tiles, warps = triton.cdiv(width, tile), tile // 16
    pull, diagonal = hessian.new_empty(width, width), hessian.new_empty(width)
    halves = torch.empty(2, tiles * tiles, tile, tile, dtype=torch.float16, device=hessian.device)
    # One program a multiprocessor: a second would slow the one that all wait for.
    launch(
        _factor,
        (min(tiles * (tiles + 1) // 2, multiprocessors(hessian.device)),),
        hessian,
        columns,
        damp * hessian.diagonal().mean(),
        pull,
        diagonal,
        halves[0],
        halves[1],
        hessian.new_empty(tiles, tile, tile),
        hessian.new_empty(tiles, tile, PANEL),
        torch.zeros(tiles + 1, dtype=torch.int32, device=hessian.device),
        width,
        tiles,
        TILE=tile,
        CHUNK=64,
        WARPS=warps,
        PLAIN=not hessian.is_cuda,
        num_warps=warps,
        num_stages=3,
    )
    return pull, diagonal


def _large_tiles_fit(device: torch.device) -> bool:
    """Whether a multiprocessor's shared memory holds them: 128 KiB on compute capability 8.0, 192 KiB on 9.0. 8.6, 8.9
    and 12.0 have 100 KiB, and on 10.0 they would take 240 of 228."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) in ((8, 0), (9, 0))
