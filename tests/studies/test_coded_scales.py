"""One block under a coded scale: what of its grid it reaches."""

import pytest
import torch

from quantcore.scheme.scheme import PRESETS
from quantcore.studies.coded_scales import coded_block
from ui.figures.coded_scales import three_lines

MXFP4, NVFP4 = PRESETS["MXFP4A16"].weights, PRESETS["NVFP4A16"].weights


def weight() -> torch.Tensor:
    """Three blocks; the middle one by reach goes up to 4 in its first half, and the loudest to 48."""
    blocks = torch.zeros(3, 32)
    blocks[0, 0], blocks[1, :2], blocks[2, 5] = 48.0, torch.tensor([4.0, -1.0]), 0.5
    return blocks.reshape(1, 96)


def test_by_hand() -> None:
    # e8m0: 4 is 2^2, so the scale is 1 and the grid ends at 6; at 1.75 times that 7 is reached, and the scale 2
    found = [coded_block(weight(), MXFP4, times) for times in (1.0, 1.5, 1.74, 1.75, 2.0)]
    assert [one.scale for one in found] == [1, 1, 1, 2, 2]
    assert [round(one.used, 3) for one in found] == [0.667, 1, 1.16, 0.583, 0.667]
    assert found[0].exact == pytest.approx(4 / 6)
    assert found[0].scales == tuple(2.0**power for power in range(-4, 5))
    assert found[0].levels[-1] == found[0].element[-1] == 6
    # e4m3 under 448 * 6 / 48 = 56: 56 * 4 / 6 = 37.33, between 36 and 40: 36 / 56 of a scale
    other = coded_block(weight(), NVFP4)
    assert len(other.values) == 16
    assert other.scale == pytest.approx(36 / 56)
    assert other.used == pytest.approx(4 / 6 * 56 / 36)
    assert len(other.scales) == 9
    assert min(one.used for one in (coded_block(weight(), NVFP4, 1 + step / 20) for step in range(21))) > 0.93


def test_a_picture_of_two() -> None:
    blocks = {"MXFP4": coded_block(weight(), MXFP4), "NVFP4": coded_block(weight(), NVFP4)}
    fig = three_lines(blocks)
    assert list(fig.data[0].x) == list(blocks["MXFP4"].element)
    assert list(fig.data[1].x) == list(blocks["MXFP4"].scales)
    assert sum(size == 15 for size in fig.data[1].marker.size) == 1
    assert list(fig.data[3].x) == list(blocks["MXFP4"].levels)


def test_rows_that_hold_no_block() -> None:
    with pytest.raises(ValueError, match="blocks of 32 do not divide rows of 48 weights"):
        coded_block(torch.ones(2, 48), MXFP4)
