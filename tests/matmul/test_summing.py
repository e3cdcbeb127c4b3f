"""What a group of Hopper's warps sums up of codes, block by block, when it lets stages go, and where the sums go."""

import pytest
import torch

pytest.importorskip("triton")

from quantcore.matmul.kernels import hopper_apart, hopper_narrow, hopper_product, hopper_wide  # noqa: E402
from quantcore.matmul.kernels.hopper_parts import piece_of  # noqa: E402
from quantcore.matmul.kernels.tile_order import GROUP, place  # noqa: E402
from tests.emulated_sums import Numbers, Shared, Stages, emulate  # noqa: E402

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
    expected = []
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
        halves = (0, block_r // 2) if block_r == 256 else (0,)
        for first in halves:
            own = sums[:, first : first + block_r // len(halves)]
            if splits > 1 and piece >= whole:
                expected.append(("part", (piece - whole) * 128 + 64 * side, first, own))
            else:
                expected.append(("tile", 128 * l + 64 * side, block_r * r + first, own))

    modules = [hopper_apart, hopper_narrow, hopper_product, hopper_wide]
    found = emulate(monkeypatch, modules, stages, number, PROGRAMS)
    has_bl = each or int(left_blocks)
    desc = type("Described", (), {"dtype": None})
    tensors = (
        *(Shared(one) for one in (stages.l, stages.r, stages.s, torch.zeros(2, 1))), stages.full, stages.empty, desc,
        None, Numbers(bl), Numbers(br), *[None] * 7, rows_r, rows_l, 128 * blocks, whole, splits,
    )  # fmt: skip
    hopper_product.sum_up(
        tensors, side, splits > 1, is_int, power, has_bl, int(right_blocks), False, 1, 1, False, False, "none", block_r,
        128, 128, stage_count, GROUP, False, True,
    )  # fmt: skip
    assert stages.came == stages.gone == len(stages.blocks)
    assert [one[:3] for one in found] == [one[:3] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[3], other[3])
