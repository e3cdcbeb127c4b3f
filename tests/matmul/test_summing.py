"""What a group of Hopper's warps sums up of codes, block by block, when it lets stages go, and where the sums go."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from quantcore.matmul.kernels import (  # noqa: E402
    hopper_apart,
    hopper_low_bit,
    hopper_narrow,
    hopper_parts,
    hopper_product,
    hopper_wide,
)
from quantcore.matmul.kernels.hopper_parts import piece_of  # noqa: E402
from quantcore.matmul.kernels.tile_order import GROUP, place  # noqa: E402
from tests.emulated_sums import Numbers, Shared, Stages, emulate, emulate_parts  # noqa: E402

PROGRAMS = 3


# Tiles that go whole, splits of the others; the side of the group, its program.
SHARES = [(6, 1, 1, 1), (4, 2, 1, 1), (4, 2, 0, 2)]


def turns_and_tiles(
    boxes: list[torch.Tensor], piece: int, tile: int, share: tuple[int, int, int, int], shared: int, where: list[Any],
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> list[tuple[Any, ...]]:  # fmt: skip
    """What a group leaves of a piece whose sums are `boxes`; `shared`: how many of its pieces are of split tiles, this
    one counted. What a tile's sums become is `finish`'s."""
    whole, splits, side, number = share
    pieces = whole + (6 - whole) * splits
    is_shared = splits > 1 and piece >= whole
    found = list[tuple[Any, ...]]()
    if is_shared:
        own, of_tile = (len(boxes) * (2 * at + side) for at in (piece - whole, (tile - whole) * splits))
        found += [("part", own + box, 0, sums) for box, sums in enumerate(boxes)]
        found.append(("turn", 2 * (tile - whole) + side, splits, torch.zeros(0)))
        apart = splits * 2 * len(boxes) / 64
        boxes = [torch.full_like(sums, of_tile + box + apart) for box, sums in enumerate(boxes)]
    if splits > 1 and side == 0 and piece == [*range(number, pieces, PROGRAMS)][-1]:
        found.append(("next", 0, 0, torch.zeros(0)))
    if not is_shared or shared % 2 == 0:
        found += [("tile", *at, finish(sums)) for at, sums in zip(where, boxes, strict=True)]
    return found


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    ("is_int", "power", "each", "left_blocks", "right_blocks"),
    [
        (True, 0, 0, False, False),
        (False, 0, 0, False, False),
        (False, 0, 0, True, False),
        (True, 0, 0, True, True),
        (False, 0, 0, False, True),
        (True, -4, 0, False, False),
        (False, 9, 0, False, False),
        (True, -4, 2, False, False),
    ],
)
@pytest.mark.parametrize("block_r", [16, 128, 256])
def test_sums_of_blocks(
    block_r: int, is_int: bool, power: int, each: int, left_blocks: bool, right_blocks: bool,
    share: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of 300 of L and a little less than two tiles of R, 5 blocks of columns; tiles of one piece and split ones. Sums
    are those of the codes, times scales of blocks, where groups of a packed weight have them times 2^power, too."""
    blocks, stage_count = 5, 3
    rows_l, rows_r = 300, 2 * block_r - 3
    whole, splits, side, number = share
    tiles_l, tiles_r = 3, 2
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-9, 9, (384, 128 * blocks), generator=generator).float()
    right = torch.randint(-9, 9, (2 * block_r, 128 * blocks), generator=generator).float()
    bl = torch.randint(1, 5, (rows_l, blocks), generator=generator).float()
    br = torch.randint(1, 5, (-(-rows_r // 128), blocks), generator=generator).float()
    groups = torch.randint(1, 5, (384, -(-blocks // max(each, 1))), generator=generator).float()

    stages = Stages(stage_count, 2 if block_r == 256 else 1, block_r)
    pieces = range(number, whole + (tiles_l * tiles_r - whole) * splits, PROGRAMS)
    expected, shared = list[tuple[Any, ...]](), 0
    for piece in pieces:
        tile, begin, end = piece_of.fn(piece, whole, splits, blocks)
        r, l = place.fn(tile, tiles_r, tiles_l, GROUP)  # noqa: E741
        sums = torch.zeros(64, block_r)
        for block in range(begin, end):
            columns = slice(128 * block, 128 * block + 128)
            of_l, of_r = left[128 * l : 128 * l + 128, columns], right[block_r * r : block_r * (r + 1), columns]
            scale = groups[128 * l : 128 * l + 128, block // each] if each else torch.full((128,), 7.0)
            stages.blocks.append((of_l, of_r, scale))
            at = torch.arange(128 * l + 64 * side, 128 * l + 64 * side + 64)
            part = of_l[64 * side : 64 * side + 64] @ of_r.T
            if each:
                part = part * (scale[64 * side : 64 * side + 64] * 2.0**power)[:, None]
            if left_blocks:
                part = part * bl[at.clamp(max=rows_l - 1), block][:, None]
            if right_blocks:
                part = part * br[torch.arange(block_r * r, block_r * (r + 1)).clamp(max=rows_r - 1) // 128, block]
            sums += part
        halves = sums.chunk(2 if block_r == 256 else 1, 1)
        shared += splits > 1 and piece >= whole
        where = [(128 * l + 64 * side, block_r * r + box * halves[0].shape[1]) for box in range(len(halves))]
        expected += turns_and_tiles(list(halves), piece, tile, share, shared, where)

    modules = [hopper_apart, hopper_narrow, hopper_product, hopper_wide]
    found = emulate(monkeypatch, modules, stages, number, PROGRAMS)
    has_bl = each or int(left_blocks)
    turns = torch.zeros(4)
    desc = type("Described", (), {"dtype": None})
    tensors = (
        *(Shared(one) for one in (stages.l, stages.r, stages.s, torch.zeros(2, 1))), stages.full, stages.empty, desc,
        None, Numbers(turns), Numbers(bl), Numbers(br), *[None] * 7, rows_r, rows_l, 128 * blocks, whole, splits,
    )  # fmt: skip
    hopper_product.sum_up(
        tensors, side, splits > 1, is_int, power, has_bl, int(right_blocks), False, 1, 1, False, False, "none", block_r,
        128, 128, stage_count, GROUP, False, True,
    )  # fmt: skip
    assert stages.came == stages.gone == len(stages.blocks)
    assert [one[:3] for one in found] == [one[:3] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[3], other[3])


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    ("scaled", "of_tokens", "has_bias"), [("row", 2, True), ("block", 1, False), ("block", 0, True)]
)
def test_sums_of_unpacked_blocks(
    scaled: str, of_tokens: int, has_bias: bool, share: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 rows of a weight and 100 tokens in tiles of 64; a row's scale once, or one each block; tokens' scales, one
    each, one for all or none, and a bias."""
    whole, splits, side, number = share
    blocks, stage_count, block_t = 5, 4, 64
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-9, 9, (384, 128 * blocks), generator=generator).float()
    x = torch.randint(-9, 9, (128, 128 * blocks), generator=generator).float()
    scales = torch.randint(1, 5, (384, blocks if scaled == "block" else 1), generator=generator).float()
    scales = scales.expand(384, blocks)
    sx, bias = torch.rand(100, generator=generator), torch.randn(300, generator=generator)
    stages, expected, shared = Stages(stage_count, 1, block_t), list[tuple[Any, ...]](), 0
    for piece in range(number, whole + (6 - whole) * splits, PROGRAMS):
        tile, begin, end = piece_of.fn(piece, whole, splits, blocks)
        n, t = place.fn(tile, 3, 2, GROUP)
        sums = torch.zeros(64, block_t)
        for block in range(begin, end):
            columns = slice(128 * block, 128 * block + 128)
            of_w, of_x = w[128 * n : 128 * n + 128, columns], x[block_t * t : block_t * (t + 1), columns]
            scale = scales[128 * n : 128 * n + 128, block]
            stages.blocks.append((of_w, of_x, scale))
            sums += (of_w @ of_x.T * scale[:, None])[64 * side : 64 * side + 64]
        shared += splits > 1 and piece >= whole

        def finish(sums: torch.Tensor, n: int = n, t: int = t) -> torch.Tensor:
            tokens = torch.arange(block_t * t, block_t * (t + 1)).clamp(max=99)
            rows = torch.arange(128 * n + 64 * side, 128 * n + 64 * side + 64)
            sums = sums * (1 if of_tokens == 0 else sx[0] if of_tokens == 1 else sx[tokens])
            return sums + torch.where(rows < 300, bias[rows.clamp(max=299)], 0.0)[:, None] if has_bias else sums

        where = [(128 * n + 64 * side, block_t * t)]
        expected += turns_and_tiles([sums], piece, tile, share, shared, where, finish)

    found = emulate(monkeypatch, [hopper_low_bit], stages, number, PROGRAMS)
    monkeypatch.setattr(hopper_low_bit, "_operand", lambda words, *_: words)
    monkeypatch.setattr(hopper_low_bit, "STEP", 1)
    buffers = [Shared(one) for one in (stages.r, stages.l, stages.s, stages.s, torch.zeros(2, 1), torch.zeros(2, 1))]
    tensors = (
        *buffers, stages.full, stages.full, stages.empty, None, None, None, Numbers(sx), Numbers(bias), None,
        Numbers(torch.zeros(4)), 300, 100, blocks, whole, splits,
    )  # fmt: skip
    hopper_low_bit.sum_up(
        tensors, side, 0, 1, False, of_tokens, has_bias, scaled, splits > 1, 128, block_t, stage_count, 1, GROUP, True
    )
    assert stages.came == stages.gone == len(stages.blocks)
    assert [one[:3] for one in found] == [one[:3] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[3], other[3])


@pytest.mark.parametrize("columns", [16, 64, 256])
@pytest.mark.parametrize("kind", [torch.float32, torch.int32])
def test_parts_are_kept_and_added(columns: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of both sides of a tile in three splits, which lie among one another; what each thread holds side by side,
    and that of a warp's lanes."""
    numbers = torch.full((6 * 64 * columns,), 1 << 20, dtype=kind)
    emulate_parts(monkeypatch)
    parts = [torch.randint(-99, 99, (64, columns)).to(kind) for _ in range(6)]
    for part, sums in enumerate(parts):
        hopper_parts.keep_part.fn(Numbers(numbers), sums, part)
    for side in range(2):
        added = hopper_parts.sum_of_parts.fn(Numbers(numbers), parts[0], side, 3, 2)
        assert torch.equal(added, parts[side] + parts[side + 2] + parts[side + 4])
    row, column = 1 + 8 + 16 * 2, 8 + 2 * 3  # lane 4 + 3 of warp 2, its third and fourth number of the second 8 columns
    at = ((4 + 2) * 32 + 4 + 3) * 4
    assert torch.equal(
        numbers[at : at + 4].view(2, 2), torch.stack([parts[0][r, column : column + 2] for r in (row - 8, row)])
    )
