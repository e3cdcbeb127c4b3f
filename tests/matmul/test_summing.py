"""What a group of Hopper's warps sums up of codes, block by block, when it lets stages go, and where the sums go."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from quantcore.matmul.kernels import hopper_apart, hopper_narrow, hopper_parts, hopper_product, hopper_wide  # noqa: E402
from quantcore.matmul.kernels.hopper_parts import piece_of  # noqa: E402
from quantcore.matmul.kernels.tile_order import GROUP, place  # noqa: E402
from tests.emulated_sums import Numbers, Shared, Stages, emulate, emulate_parts  # noqa: E402

PROGRAMS = 3


@pytest.mark.parametrize("share", [(6, 1), (4, 2)])
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
    block_r: int, is_int: bool, power: int, each: int, left_blocks: bool, right_blocks: bool, share: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of 300 of L and a little less than two tiles of R, 5 blocks of columns; tiles of one piece and split ones. Sums
    are those of the codes, times scales of blocks, where groups of a packed weight have them times 2^power, too."""
    number, side, blocks, stage_count = 1, 1, 5, 3
    rows_l, rows_r = 300, 2 * block_r - 3
    whole, splits = share
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
            part = of_l[64 * side :] @ of_r.T
            if each:
                part = part * (scale[64 * side :] * 2.0**power)[:, None]
            if left_blocks:
                part = part * bl[at.clamp(max=rows_l - 1), block][:, None]
            if right_blocks:
                part = part * br[torch.arange(block_r * r, block_r * (r + 1)).clamp(max=rows_r - 1) // 128, block]
            sums += part
        halves = sums.chunk(2 if block_r == 256 else 1, 1)
        if splits > 1 and piece >= whole:
            of_side = [len(halves) * (2 * at + side) for at in (piece - whole, (tile - whole) * splits)]
            expected += [("part", of_side[0] + box, 0, own) for box, own in enumerate(halves)]
            expected.append(("turn", 2 * (tile - whole) + side, splits, torch.zeros(0)))
            apart = splits * 2 * len(halves) / 64
            halves = [torch.full_like(own, of_side[1] + box + apart) for box, own in enumerate(halves)]
            shared += 1
        if splits == 1 or piece < whole or shared % 2 == 0:
            for box, own in enumerate(halves):
                expected.append(("tile", 128 * l + 64 * side, block_r * r + box * own.shape[1], own))

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
