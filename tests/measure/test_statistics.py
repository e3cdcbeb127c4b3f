"""Intervals cover the truth as often as they say; pairs see what single means cannot; percentiles by hand."""

import math

import numpy as np
import pytest
import torch

from quantcore.measure.statistics import Interval, mean_interval, paired_interval, percentile, window_interval


@pytest.mark.parametrize("windows", [5, 8, 32])
def test_the_paired_interval_covers_the_truth(windows: int) -> None:
    """Tokens that share their window's difficulty, skewed differences: 95% of the intervals must hold the true mean."""
    rng = np.random.default_rng(1)
    truth, runs, hits = 0.03, 300, 0
    for _ in range(runs):
        difficulty = rng.normal(3, 1, (windows, 1))  # of a window: the same for both models
        shift = truth - 0.02 + 0.02 * rng.exponential(1, (windows, 1))  # each window has its own true difference
        base = difficulty + rng.exponential(2, (windows, 20))
        other = base + shift + rng.normal(0, 0.1, (windows, 20))
        found = paired_interval(torch.from_numpy(other), torch.from_numpy(base))
        hits += found.lo <= truth <= found.hi
    assert 0.90 <= hits / runs <= 0.995


def test_pairs_see_what_single_means_cannot() -> None:
    rng = torch.Generator().manual_seed(0)
    base = 3 + torch.randn(16, 1, generator=rng) + torch.rand(16, 50, generator=rng)
    worse = base + 0.02 + 0.01 * torch.randn(16, 50, generator=rng)
    paired = paired_interval(worse, base)
    assert paired.significant
    assert paired.value == pytest.approx(0.02, abs=2e-3)
    one, other = window_interval(base), window_interval(worse)
    assert one.lo < other.value < one.hi  # each on its own: no telling them apart


def test_no_difference_is_exactly_none() -> None:
    x = torch.rand(10, 7)
    assert paired_interval(x, x) == Interval(0.0, 0.0, 0.0)
    assert not paired_interval(x, x).significant


def test_few_windows_say_nothing() -> None:
    found = mean_interval(np.array([1.0, 2.0, 2.0, 3.0]))
    assert found == Interval(2.0, -math.inf, math.inf)
    assert not found.significant


def test_the_same_numbers_give_the_same_interval() -> None:
    values = np.array([0.1, 0.2, 0.15, 0.4, 0.3])
    assert mean_interval(values) == mean_interval(values)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot pair \(2, 3\) with \(3, 3\) tokens"):
        paired_interval(torch.zeros(2, 3), torch.zeros(3, 3))


def test_percentile_by_hand() -> None:
    values = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    assert [percentile(values, p) for p in (0, 25, 50, 51, 99, 100)] == [1, 1, 2, 3, 4, 4]
