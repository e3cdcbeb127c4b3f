"""Histograms whose bins line up, so that two can share one axis."""

import pytest
import torch

from quantcore.numbers.histogram import Histogram, histogram, merge_outward


def test_counts_by_hand() -> None:
    # The least power of two that holds 3 is 4: four bins [-4,-2) [-2,0) [0,2) [2,4].
    counted = histogram(torch.tensor([[-3.0, -0.5], [0.0, 3.0], [1.0, 1.9]]), bins=4)
    assert counted.reach == 4
    assert counted.counts.tolist() == [1, 1, 3, 1]
    assert counted.edges.tolist() == [-4, -2, 0, 2, 4]


def test_a_power_of_two_lies_in_the_last_bin() -> None:
    counted = histogram(torch.tensor([2.0, -2.0]), bins=4)
    assert (counted.reach, counted.counts.tolist()) == (2, [1, 0, 0, 1])


@pytest.mark.parametrize("values", [torch.zeros(5), torch.zeros(0)])
def test_nothing_but_zeros(values: torch.Tensor) -> None:
    counted = histogram(values, bins=4)
    assert counted.counts.tolist() == [0, 0, len(values), 0]
    assert counted.on_reach(1.0).counts.sum() == len(values)


def test_merging_outward_by_hand() -> None:
    counts = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    assert merge_outward(counts, 0).tolist() == counts.tolist()
    assert merge_outward(counts, 1).tolist() == [0, 0, 3, 7, 11, 15, 0, 0]
    assert merge_outward(counts, 2).tolist() == [0, 0, 0, 10, 26, 0, 0, 0]
    assert merge_outward(counts, 9).tolist() == [0, 0, 0, 10, 26, 0, 0, 0]  # what is small stays in the middle two


@pytest.mark.parametrize("factor", [0.01, 1.0, 37.0])
def test_merging_equals_counting_again(factor: float) -> None:
    values = factor * torch.randn(5000)
    small = histogram(values)
    wide = small.on_reach(8 * small.reach)
    again = histogram(torch.cat([values, torch.tensor([wide.reach])])).counts
    again[-1] -= 1  # the value that stretched the range
    assert torch.equal(wide.counts, again)
    assert wide.coarsened(64).counts.sum() == 5000
    assert len(wide.coarsened(64).edges) == 65


def test_a_smaller_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="a histogram over 2 cannot be laid over 1; give at least its own reach"):
        Histogram(torch.ones(4), 2.0).on_reach(1.0)
