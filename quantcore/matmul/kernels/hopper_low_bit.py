"""bf16 tokens times codes of at most 4 bits, on Hopper: the product of `low_bit_matmul`, on the layout of
`low_bit_weight`.

A tile is 128 rows of the weight x 16 to 256 tokens, and the weight is the left operand, which a warp may hold in
registers: each lane reads its words of a block, unpacks a plane of each to pairs of neighbouring columns, and that is
the operand of the instruction, as it stands. No unpacked weight moves between threads, nor through shared memory.

    a row has a scale   c = (u - 8 - zero) / 64, u the stored code + 8: exact; the row's sums are scaled
    up to 128 tokens    the same c; a block's sums are scaled
    beyond them         w = c s_hi + (c s_lo), rounded once to bf16; s_hi + s_lo are 16 bits of 64 times the scale's 24,
                        two bf16: the dequantized weight in bf16, as `expand` writes it, but for ties that the lost 8
                        bits decide

A block is one product of 128 columns, or two of 64 for 256 tokens, whose halves come one by one. While it is done its
successor's words, scales and zeros are read, which came with each other: nothing of a block is waited for from further
than shared memory. What is slow otherwise is the number of instructions. Up to 32 tokens two teams share a tile's
blocks, every other one each, and add their sums. Where there are fewer tiles than multiprocessors K is split, too, and
where there are more that of the last tiles (`hopper_parts`).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantcore.matmul.kernels.hopper import COPIED, described, described_flat, is_hopper
from quantcore.matmul.kernels.hopper_parts import keep_part, piece_of, sum_of_parts
from quantcore.matmul.kernels.hopper_results import write
from quantcore.matmul.kernels.hopper_tiles import BARE_TOKENS, BLOCK_N, Tile, tile_for
from quantcore.matmul.kernels.hopper_unpack import LESS, LESS_TWICE, STEP, WORDS, twice, unpacked, words_of
from quantcore.matmul.kernels.low_bit_matmul import scales_of
from quantcore.matmul.kernels.low_bit_weight import BLOCK, LowBitWeight
from quantcore.matmul.kernels.tile_order import GROUP, place
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next, overlapping
from quantcore.numbers.kernels.triton_here import multiprocessors
from quantcore.numbers.kernels.turns import is_last

STAGES = {16: 8, 32: 8, 64: 4, 128: 4, 256: 4}  # blocks of the weight in shared memory, by a tile's tokens
FEWEST_TOKENS = 9  # fewer are multiplied quicker without tiles, by `few_tokens_matmul`
HALF_STAGES = gl.constexpr(5)  # half blocks of 256 tokens, of which no more fit; of fewer a block comes as one


@gluon.jit
def bring_weights(
    w_desc, s_desc, z_desc, w_bufs, s_bufs, z_bufs, full, done, N, T, blocks, whole, splits, blocks_a_group,
    ZERO: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_T: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """These begin before the kernel before this one has ended."""
    tiles_n, tiles_t = gl.cdiv(N, BLOCK_N), gl.cdiv(T, BLOCK_T)
    half: gl.constexpr = BLOCK_N // 2
    step = 0
    for piece in range(gl.program_id(0), whole + (tiles_n * tiles_t - whole) * splits, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        pid_n, _ = place(tile, tiles_n, tiles_t, GROUP)
        for block in range(begin, end):
            stage = step % STAGES
            came = full.index(stage)
            mbarrier.wait(done.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(came, BLOCK_N * (69 if ZERO else 68))
            for side in gl.static_range(2):
                row = block * N + pid_n * BLOCK_N + side * half
                tma.async_copy_global_to_shared(w_desc, [row, 0], came, w_bufs.index(2 * stage + side))
            of_group = block // blocks_a_group * N + pid_n * BLOCK_N
            tma.async_copy_global_to_shared(s_desc, [of_group], came, s_bufs.index(stage))
            if ZERO:
                tma.async_copy_global_to_shared(z_desc, [of_group], came, z_bufs.index(stage))
            step += 1


@gluon.jit
def bring_tokens(
    x_desc, x_bufs, x_full, done, N, T, blocks, whole, splits, SPLIT: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_T: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr, GROUP: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """Whoever waits for tokens has waited for the kernel before this one."""
    x_stages: gl.constexpr = x_bufs.shape[0]
    columns: gl.constexpr = 128 // HALVES
    tiles_n, tiles_t = gl.cdiv(N, BLOCK_N), gl.cdiv(T, BLOCK_T)
    after_last(OVERLAP)
    step = 0
    for piece in range(gl.program_id(0), whole + (tiles_n * tiles_t - whole) * splits, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        _, pid_t = place(tile, tiles_n, tiles_t, GROUP)
        for block in range(begin, end):
            for h in gl.static_range(HALVES):
                part = HALVES * step + h
                then = (part + HALVES * STAGES - x_stages) // HALVES  # STAGES behind the block that was there
                came = x_full.index(part % x_stages)
                mbarrier.wait(done.index(then % STAGES), ((then // STAGES) & 1) ^ 1)
                mbarrier.expect(came, BLOCK_T * columns * 2)
                at = [pid_t * BLOCK_T, block * 128 + h * columns]
                tma.async_copy_global_to_shared(x_desc, at, came, x_bufs.index(part % x_stages))
            step += 1
    if not SPLIT:
        let_next(OVERLAP)


@gluon.jit
def _of_side(bufs, stage, SIDE: gl.constexpr, layout: gl.constexpr):
    half: gl.constexpr = bufs.shape[1] // 2
    return bufs.index(stage).slice(SIDE * half, half).load(layout)


@gluon.jit
def _words_of(
    w_bufs, s_bufs, z_bufs, full, step, wanted, SIDE: gl.constexpr, ZERO: gl.constexpr, STAGES: gl.constexpr,
    held: gl.constexpr, scaled: gl.constexpr,
):  # fmt: skip
    """Of a block, with its scales and zeros; where it is not wanted, whatever lies there."""
    stage = step & (STAGES - 1)
    mbarrier.wait(full.index(stage), (step & STAGES) // STAGES, pred=wanted)
    scale = _of_side(s_bufs, stage, SIDE, scaled)
    zero = _of_side(z_bufs, stage, SIDE, gl.SliceLayout(1, held)) if ZERO else 0
    return w_bufs.index(2 * stage + SIDE).load(held), scale, zero


@gluon.jit
def _operand(
    words, scale, zero, H: gl.constexpr, HALVES: gl.constexpr, ZERO: gl.constexpr, SCALED: gl.constexpr,
    operand: gl.constexpr,
):  # fmt: skip
    """Half H of a block, or all of it."""
    less = twice(LESS - STEP * zero.to(gl.float32)).expand_dims(1) if ZERO else LESS_TWICE
    if SCALED == "weight":
        hi = twice(scale / STEP)
        lo = twice(scale / STEP - (hi & -65536).to(gl.float32, bitcast=True))
        w = unpacked(words, less, hi.expand_dims(1), lo.expand_dims(1), H, HALVES, False)
    else:
        w = unpacked(words, less, 0, 0, H, HALVES, True)
    return gl.convert_layout(w, operand, assert_trivial=True)


@gluon.jit
def sum_up(
    tensors, SIDE: gl.constexpr, TEAM: gl.constexpr, TEAMS: gl.constexpr, ZERO: gl.constexpr, SX: gl.constexpr,
    BIAS: gl.constexpr, SCALED: gl.constexpr, SPLIT: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_T: gl.constexpr,
    STAGES: gl.constexpr, HALVES: gl.constexpr, GROUP: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    x_bufs, w_bufs, s_bufs, z_bufs, y_bufs, sum_bufs, x_full, full, done, given, taken = tensors[:11]
    y_desc, sx_ptr, bias_ptr, parts_ptr, turns_ptr, N, T, blocks, whole, splits = tensors[11:]
    half: gl.constexpr = BLOCK_N // 2
    part: gl.constexpr = BLOCK_T // HALVES
    x_stages: gl.constexpr = x_bufs.shape[0]
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_T, 16]
    )
    operand: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=layout, k_width=2)
    held: gl.constexpr = gl.DistributedLinearLayout(
        reg_bases=[[8, 0], [0, 4], [0, 8]],
        lane_bases=[[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, 16],
    )
    scaled: gl.constexpr = gl.SliceLayout(1, held if SCALED == "weight" else layout)
    tiles_n, tiles_t = gl.cdiv(N, BLOCK_N), gl.cdiv(T, BLOCK_T)
    y_buf = y_bufs.index(SIDE)
    before = 0
    turn = 0
    pieces = whole + (tiles_n * tiles_t - whole) * splits
    for piece in range(gl.program_id(0), pieces, gl.num_programs(0)):
        tile, begin, end = piece_of(piece, whole, splits, blocks)
        pid_n, pid_t = place(tile, tiles_n, tiles_t, GROUP)
        first = pid_n * BLOCK_N + SIDE * half
        start = begin + (before + TEAM) % TEAMS  # a stage is always of one team, which has seen its phases
        acc = gl.zeros([half, BLOCK_T], gl.float32, layout)
        sums = acc
        step = before + start - begin
        words, scale, zero = _words_of(
            w_bufs, s_bufs, z_bufs, full, step, start < end, SIDE, ZERO, STAGES, held, scaled
        )
        of_block = scale
        for block in range(start, end, TEAMS):
            step = before + block - begin
            going = block > start if SCALED != "block" else False
            for h in gl.static_range(HALVES):
                w = _operand(words, scale, zero, h, HALVES, ZERO, SCALED, operand)
                at = (HALVES * step + h) % x_stages
                if HALVES == 2:
                    mbarrier.wait(x_full.index(at), ((HALVES * step + h) // x_stages) & 1)
                x = x_bufs.index(at).permute([1, 0])
                sums = warpgroup_mma(w, x, sums, use_acc=going if h == 0 else True, is_async=True)
            of_block = scale
            words, scale, zero = _words_of(
                w_bufs, s_bufs, z_bufs, full, step + TEAMS, block + TEAMS < end, SIDE, ZERO, STAGES, held, scaled
            )
            sums = warpgroup_mma_wait(0, deps=(sums,))
            mbarrier.arrive(done.index(step & (STAGES - 1)), count=1)
            if SCALED == "block":
                acc += sums * (of_block / STEP).expand_dims(1)
        if SCALED == "row":
            acc = sums * gl.where(start < end, of_block / STEP, 0.0).expand_dims(1)
        elif SCALED == "weight":
            acc = sums
        before += end - begin
        if TEAM > 0:
            mbarrier.wait(taken.index(SIDE), (turn & 1) ^ 1)
            sum_bufs.index(SIDE).store(acc)
            mbarrier.arrive(given.index(SIDE), count=1)
        else:
            if TEAMS > 1:
                mbarrier.wait(given.index(SIDE), turn & 1)
                acc += sum_bufs.index(SIDE).load(layout)
            n = first + gl.arange(0, half, gl.SliceLayout(1, layout))
            finishes = piece < whole
            if SPLIT and piece >= whole:
                keep_part(parts_ptr, acc, 2 * (piece - whole) + SIDE)
                finishes = is_last(turns_ptr + 2 * (tile - whole) + SIDE, splits)
                if finishes:
                    acc = sum_of_parts(parts_ptr, acc, 2 * (tile - whole) * splits + SIDE, splits, 2)
            if SPLIT and SIDE == 0:  # not before, as in `hopper_product`
                if piece + gl.num_programs(0) >= pieces:
                    let_next(OVERLAP)
            if not SPLIT or finishes:
                if SX > 0:
                    t = gl.minimum(pid_t * BLOCK_T + gl.arange(0, BLOCK_T, gl.SliceLayout(0, layout)), T - 1)
                    acc *= gl.load(sx_ptr + t * (SX - 1)).expand_dims(0)
                if BIAS:
                    acc += gl.load(bias_ptr + n, mask=n < N, other=0.0).to(gl.float32).expand_dims(1)
                out = acc.to(gl.bfloat16)
                parts = (out, out) if HALVES == 1 else out.reshape([half, 2, part]).permute([0, 2, 1]).split()
                for one in gl.static_range(HALVES):
                    write(parts[one], y_buf, y_desc, first, pid_t * BLOCK_T + one * part, True)
            if TEAMS > 1:  # what the other team gave is in what was written: it may be written over
                mbarrier.arrive(taken.index(SIDE), count=1)
        turn += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["T", "whole", "splits"])
def _multiply_low_bit(
    x_desc, w_desc, y_desc, s_desc, z_desc, sx_ptr, bias_ptr, parts_ptr, turns_ptr, N, T, blocks, whole, splits,
    blocks_a_group, ZERO: gl.constexpr, SX: gl.constexpr, BIAS: gl.constexpr, SCALED: gl.constexpr, SPLIT: gl.constexpr,
    TEAMS: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_T: gl.constexpr, STAGES: gl.constexpr,
    HALVES: gl.constexpr, GROUP: gl.constexpr, PHASES: gl.constexpr, OVERLAP: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    x_stages: gl.constexpr = HALF_STAGES if HALVES == 2 else STAGES
    x_bufs = gl.allocate_shared_memory(x_desc.dtype, [x_stages] + x_desc.block_shape, x_desc.layout)
    w_bufs = gl.allocate_shared_memory(w_desc.dtype, [2 * STAGES, BLOCK_N // 2, 16], w_desc.layout)
    s_bufs = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_N], s_desc.layout)
    z_bufs = gl.allocate_shared_memory(gl.int8, [STAGES, BLOCK_N], z_desc.layout) if ZERO else s_bufs
    y_bufs = gl.allocate_shared_memory(y_desc.dtype, [2, BLOCK_T // HALVES, BLOCK_N // 2], y_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    x_full = gl.allocate_shared_memory(gl.int64, [x_stages, 1], mbarrier.MBarrierLayout()) if HALVES == 2 else full
    done = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    given = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    taken = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1 if HALVES == 2 else 2)
        mbarrier.init(done.index(stage), count=2)
    if HALVES == 2:
        for stage in gl.static_range(x_stages):
            mbarrier.init(x_full.index(stage), count=1)
    for side in gl.static_range(2):
        mbarrier.init(given.index(side), count=1)
        mbarrier.init(taken.index(side), count=1)
    fence_async_shared()
    if TEAMS == 1:
        tensors = (
            x_bufs, w_bufs, s_bufs, z_bufs, y_bufs, x_bufs, x_full, full, done, given, taken, y_desc,
            sx_ptr, bias_ptr, parts_ptr, turns_ptr, N, T, blocks, whole, splits,
        )  # fmt: skip
        gl.warp_specialize(
            [
                (sum_up, (
                    tensors, gl.constexpr(0), gl.constexpr(0), TEAMS, ZERO, SX, BIAS, SCALED, SPLIT, BLOCK_N, BLOCK_T,
                    STAGES, HALVES, GROUP, OVERLAP,
                )),
                (sum_up, (
                    tensors, gl.constexpr(1), gl.constexpr(0), TEAMS, ZERO, SX, BIAS, SCALED, SPLIT, BLOCK_N, BLOCK_T,
                    STAGES, HALVES, GROUP, OVERLAP,
                )),
                (bring_weights, (
                    w_desc, s_desc, z_desc, w_bufs, s_bufs, z_bufs, full, done, N, T, blocks, whole, splits,
                    blocks_a_group, ZERO, BLOCK_N, BLOCK_T, STAGES, GROUP,
                )),
                (bring_tokens, (
                    x_desc, x_bufs, x_full, done, N, T, blocks, whole, splits, SPLIT, BLOCK_N, BLOCK_T, STAGES, HALVES,
                    GROUP, OVERLAP,
                )),
            ],
            [4, 1, 1],  # warps of the second group, and those that bring
            [232, 40, 40],  # registers a thread of theirs; the first group has what is left
        )  # fmt: skip
    else:
        sum_layout: gl.constexpr = gl.SwizzledSharedLayout(vec=8, per_phase=1, max_phase=PHASES, order=[1, 0])
        sum_bufs = gl.allocate_shared_memory(gl.float32, [2, BLOCK_N // 2, BLOCK_T], sum_layout)
        tensors = (
            x_bufs, w_bufs, s_bufs, z_bufs, y_bufs, sum_bufs, x_full, full, done, given, taken, y_desc,
            sx_ptr, bias_ptr, parts_ptr, turns_ptr, N, T, blocks, whole, splits,
        )  # fmt: skip
        gl.warp_specialize(
            [
                (sum_up, (
                    tensors, gl.constexpr(0), gl.constexpr(0), TEAMS, ZERO, SX, BIAS, SCALED, SPLIT, BLOCK_N, BLOCK_T,
                    STAGES, HALVES, GROUP, OVERLAP,
                )),
                (sum_up, (
                    tensors, gl.constexpr(1), gl.constexpr(0), TEAMS, ZERO, SX, BIAS, SCALED, SPLIT, BLOCK_N, BLOCK_T,
                    STAGES, HALVES, GROUP, OVERLAP,
                )),
                (sum_up, (
                    tensors, gl.constexpr(0), gl.constexpr(1), TEAMS, ZERO, SX, BIAS, SCALED, SPLIT, BLOCK_N, BLOCK_T,
                    STAGES, HALVES, GROUP, OVERLAP,
                )),
                (sum_up, (
                    tensors, gl.constexpr(1), gl.constexpr(1), TEAMS, ZERO, SX, BIAS, SCALED, SPLIT, BLOCK_N, BLOCK_T,
                    STAGES, HALVES, GROUP, OVERLAP,
                )),
                (bring_weights, (
                    w_desc, s_desc, z_desc, w_bufs, s_bufs, z_bufs, full, done, N, T, blocks, whole, splits,
                    blocks_a_group, ZERO, BLOCK_N, BLOCK_T, STAGES, GROUP,
                )),
                (bring_tokens, (
                    x_desc, x_bufs, x_full, done, N, T, blocks, whole, splits, SPLIT, BLOCK_N, BLOCK_T, STAGES, HALVES,
                    GROUP, OVERLAP,
                )),
            ],
            [4, 4, 4, 1, 1],
            [112, 112, 112, 24, 24],
        )  # fmt: skip


def _scaled(weight: LowBitWeight, block_t: int) -> str:
    """What is multiplied by scales."""
    if weight.group >= weight.shape[1]:
        return "row"
    return "block" if block_t <= BARE_TOKENS else "weight"


def _tile_for(tokens: int, weight: LowBitWeight) -> Tile | None:
    return tile_for(tokens, *weight.shape, multiprocessors(weight.words.device), weight.zero_point is not None)


def takes(x: Tensor, weight: LowBitWeight) -> bool:
    """Whether this kernel multiplies so many tokens by such a weight, and does it quickest."""
    out, width = weight.shape
    return (
        is_hopper(x.device)
        and x.dtype == torch.bfloat16
        and len(x) >= FEWEST_TOKENS
        and weight.bits == 4
        and weight.is_plain
        and (weight.group % BLOCK == 0 or weight.group >= width)
        and x.data_ptr() % COPIED == 0
        and width * x.element_size() % COPIED == 0
        and out * x.element_size() % COPIED == 0
        and (weight.zero_point is None or out % COPIED == 0)  # a byte each: else copying a group's is no instruction
        and _tile_for(len(x), weight) is not None
    )


def multiply_low_bit(
    x: Tensor, weight: LowBitWeight, bias: Tensor | None, tile: Tile | None = None, scale: Tensor | None = None
) -> Tensor:
    """y (N, O) in bf16. Shape of x: (N, K), contiguous, columns in the weight's order; with `scale`, (N,) or (1,) in
    float32, x holds codes and y is multiplied by it."""
    tokens, (out, width) = len(x), weight.shape
    block_t, teams, splits, whole = tile or _tile_for(tokens, weight) or Tile(128, 1)
    halves = 2 if block_t == 256 else 1
    y = torch.empty(tokens, out, dtype=x.dtype, device=x.device)
    blocks, cut = triton.cdiv(width, BLOCK), triton.cdiv(out, BLOCK_N) * triton.cdiv(tokens, block_t) - whole
    parts = torch.empty(cut * splits, BLOCK_N, block_t, dtype=torch.float32, device=x.device) if splits > 1 else None
    launch(
        _multiply_low_bit, (min(whole + cut * splits, multiprocessors(x.device)),),
        described(x, [block_t, BLOCK // halves]),
        described(words_of(weight), [BLOCK_N // 2, WORDS]),
        described(y, [block_t // halves, BLOCK_N // 2]), described_flat(weight.scale, BLOCK_N),
        None if weight.zero_point is None else described_flat(weight.zero_point, BLOCK_N), scale, bias, parts,
        weight.turns, out, tokens, blocks, whole, splits, blocks if weight.group >= width else weight.group // BLOCK,
        ZERO=weight.zero_point is not None, SX=scales_of(scale), BIAS=bias is not None, SCALED=_scaled(weight, block_t),
        SPLIT=splits > 1, TEAMS=teams, BLOCK_N=BLOCK_N, BLOCK_T=block_t, STAGES=STAGES[block_t], HALVES=halves,
        GROUP=GROUP, PHASES=min(4, block_t // 8), num_warps=4, **overlapping(x.device),
    )  # fmt: skip
    return y
