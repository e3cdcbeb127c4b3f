"""What Hopper's kernels bring to shared memory: the right blocks, and none over one that is still multiplied."""

from typing import Any

import pytest

pytest.importorskip("triton")

from quantcore.matmul.kernels import hopper_bring, hopper_low_bit, hopper_product  # noqa: E402
from quantcore.matmul.kernels.hopper_parts import piece_of  # noqa: E402
from quantcore.matmul.kernels.tile_order import GROUP, place  # noqa: E402
from tests.emulated_bringing import Barrier, Many, Program  # noqa: E402

PROGRAMS = 3


def steps(tiles_n: int, tiles_t: int, blocks: int, whole: int, splits: int, number: int) -> list[tuple[int, int, int]]:
    """Tile of rows, tile of tokens and block of a program's steps."""
    found = []
    for piece in range(number, whole + (tiles_n * tiles_t - whole) * splits, PROGRAMS):
        tile, begin, end = piece_of.fn(piece, whole, splits, blocks)
        found += [(*place.fn(tile, tiles_n, tiles_t, GROUP), block) for block in range(begin, end)]
    return found


def barriers(many: int, count: int) -> Many:
    return Many(Barrier(count) for _ in range(many))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("block_t", [16, 32, 128, 256])
def test_bring_words_scales_and_tokens(block_t: int, zero: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who brings tokens lets the next kernel begin, but where tiles are split."""
    out, tokens, blocks, number, each = 300, 3 * block_t, 20, 1, 2
    share = (9, 1) if block_t == 32 else (3, 2)
    stages, halves = hopper_low_bit.STAGES[block_t], 2 if block_t == 256 else 1
    x_stages = hopper_low_bit.HALF_STAGES.value if halves == 2 else stages
    x, w, s, z = Many([None] * x_stages), Many([None] * 2 * stages), Many([None] * stages), Many([None] * stages)
    full, done = barriers(stages, 1 if halves == 2 else 2), barriers(stages, 2)
    x_full = barriers(x_stages, 1) if halves == 2 else full
    program = Program(monkeypatch, hopper_low_bit, number, PROGRAMS)
    program.start(
        hopper_low_bit.bring_weights, 64 * 64, 4 * 128, 128, w, s, z, full, done, out, tokens, blocks, *share, each,
        zero, 128, block_t, stages, GROUP,
    )  # fmt: skip
    program.start(
        hopper_low_bit.bring_tokens, block_t * 256 // halves, x, x_full, done, out, tokens, blocks, *share,
        share[1] > 1, 128, block_t, stages, halves, GROUP, True,
    )  # fmt: skip
    for step, (n, t, block) in enumerate(steps(3, 3, blocks, *share, number)):
        stage = step % stages
        program.came(full[stage], step // stages & 1)
        for part in range(halves * step, halves * (step + 1)):
            program.came(x_full[part % x_stages], part // x_stages & 1)
            assert x[part % x_stages] == (block_t * t, 128 * block + 64 * (part % halves))
        assert w[2 * stage : 2 * stage + 2] == [(block * out + 128 * n + half, 0) for half in (0, 64)]
        assert s[stage] == (block // each * out + 128 * n,)
        assert z[stage] == (s[stage] if zero else None)
        program.arrive(done[stage])
        program.settle()  # one group of warps is done with it, the other is not
        assert w[2 * stage] == (block * out + 128 * n, 0)
        assert x[halves * step % x_stages] == (block_t * t, 128 * block)
        program.arrive(done[stage])
    program.settle()
    assert len(program.let) == (share[1] == 1)


@pytest.mark.parametrize(
    ("block_r", "each"), [(16, 0), (32, 0), (64, 2), (128, 3), (128, -1), (256, 0), (256, 2), (256, -1)]
)
def test_bring_codes(block_r: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To tiles narrow and wide, whose right operand comes in halves. each: blocks that share a scale, 0 for none; -1
    where the weight is not packed. Who does not bring early lets the next kernel begin, but where tiles are split."""
    is_packed, halves = each >= 0, 2 if block_r == 256 else 1
    out, tokens, blocks, number = 300, 3 * block_r, 20, 2
    share = (9, 1) if each == 2 else (4, 2)
    stages = hopper_product.stages(128, block_r, 128, is_packed, each > 0)
    assert stages == 4 or block_r < 256
    l_bufs, r_bufs, s_bufs = Many([None] * 2 * stages), Many([None] * halves * stages), Many([None] * stages)
    full, empty = barriers(stages, 2), barriers(stages, 2)
    program = Program(monkeypatch, hopper_bring, number, PROGRAMS)
    sizes: Any = (block_r, 128, 128, share[1] > 1, stages, GROUP, True)
    program.start(
        hopper_bring.bring, 64 * (64 if is_packed else 128), l_bufs, 4 * 128, s_bufs, full, empty, tokens, out,
        128 * blocks, *share, True, is_packed, max(each, 0), True, *sizes,
    )  # fmt: skip
    program.start(
        hopper_bring.bring, block_r // halves * 128, r_bufs, 0, r_bufs, full, empty, tokens, out, 128 * blocks, *share,
        False, False, 0, False, *sizes,
    )  # fmt: skip
    for step, (r, l, block) in enumerate(steps(3, 3, blocks, *share, number)):  # noqa: E741
        stage = step % stages
        program.came(full[stage], step // stages & 1)
        row = [block * out + 128 * l, 0] if is_packed else [128 * l, 128 * block]
        right = [(block_r * r + 128 * half, 128 * block) for half in range(halves)]
        for side in range(2):
            assert l_bufs[2 * stage : 2 * stage + 2] == [(row[0] + half, row[1]) for half in (0, 64)]
            assert r_bufs[halves * stage : halves * (stage + 1)] == right
            assert s_bufs[stage] == ((block // each * out + 128 * l,) if each > 0 else None)
            program.arrive(empty[stage])
            if side == 0:
                program.settle()
    program.settle()
    assert len(program.let) == (share[1] == 1)
