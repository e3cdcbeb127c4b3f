"""SmoothQuant's scales, worked by hand."""

import pytest
import torch

from quantcore.methods.transforms.smooth import smoothing_scales


def test_both_sides_meet_in_the_middle() -> None:
    # max|x| = (16, 1), max|w| = (1, 4): s = sqrt(16 / 1) = 4 and sqrt(1 / 4) = 0.5;
    # behind it x reaches 4 and 2, w reaches 4 and 2.
    s = smoothing_scales(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 4.0]), 0.5)
    assert torch.equal(s, torch.tensor([4.0, 0.5]))


def test_alpha_one_leaves_all_to_the_weights() -> None:
    s = smoothing_scales(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 4.0]), 1.0)
    assert torch.equal(s, torch.tensor([16.0, 1.0]))  # every channel of x then reaches 1


def test_three_quarters() -> None:
    # 16^0.75 / 16^0.25 = 8 / 2
    assert smoothing_scales(torch.tensor([16.0]), torch.tensor([16.0]), 0.75).item() == pytest.approx(4.0)


def test_a_silent_channel_keeps_its_scale() -> None:
    s = smoothing_scales(torch.tensor([0.0, 9.0, 4.0]), torch.tensor([2.0, 0.0, 1.0]), 0.5)
    assert torch.equal(s, torch.tensor([1.0, 1.0, 2.0]))
