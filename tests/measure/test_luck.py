"""Rounding luck is a bar of its own: equal schemes are not told apart, however long the text; different ones are."""

import math

import numpy as np
import pytest
import torch

from quantcore.measure.luck import Spread, both, jittered, luck_bar, luck_p
from quantcore.measure.scores import Comparison, Scores
from quantcore.measure.statistics import holm
from quantcore.measure.told_apart import BY_TEXT, REAL, share_words, told_apart


def test_jitters_are_plans_of_their_own() -> None:
    assert jittered("w:int4/channel@down_proj=w:int8/channel", 2) == [
        "w:int4/channel/jitter1@down_proj=w:int8/channel/jitter1",
        "w:int4/channel/jitter2@down_proj=w:int8/channel/jitter2",
    ]
    assert jittered("a:int8/token/dynamic") == []


def test_luck_by_hand() -> None:
    """Deviations 1 and 1, so s = sqrt 2, and by Welch 2 + 2 degrees of freedom: t(97.5%) = 2.776."""
    one = Spread((1.0, 2.0, 3.0))
    assert one.deviation == 1.0
    assert luck_bar(one, one) == pytest.approx(2.776 * math.sqrt(2), rel=1e-3)
    assert luck_p(2.776 * math.sqrt(2), one, one) == pytest.approx(0.05, rel=1e-2)
    still = Spread((2.0, 2.0, 2.0))
    assert luck_bar(one, still) == pytest.approx(4.303, rel=1e-3)  # 2 degrees of freedom
    assert luck_p(1.0, still, still) == 0.0


def test_two_bars_are_added_as_squares() -> None:
    """p = 0.05 twice: z = 1.96 / sqrt 2 = 1.386, so 0.166: beyond each bar, not beyond both together."""
    assert both(0.05, 0.05) == pytest.approx(0.1658, abs=1e-3)
    assert both(0.01, 0.0) == pytest.approx(0.01, rel=1e-2)
    assert both(1.0, 1e-9) == 1.0


def test_holm_by_hand() -> None:
    """0.01 three times, 0.03 twice, 0.02 once; none below the one before."""
    assert holm({"a": 0.03, "b": 0.01, "c": 0.04}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def comparison(kl: dict[str, np.ndarray]) -> Comparison:
    """A comparison that knows KL alone: (windows, tokens) by name."""
    none = torch.zeros(0)
    scores = {name: Scores(none, torch.from_numpy(values), none, none) for name, values in kl.items()}
    reports = {name: type("Report", (), {"kl": float(values.mean())})() for name, values in kl.items()}
    return Comparison(Scores(none, none, none, none), scores, reports)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(("of_luck", "of_text"), [(0.01, 0.002), (0.0005, 0.02), (0.003, 0.01)])
def test_equal_schemes_are_seldom_told_apart(count: int, of_luck: float, of_text: float) -> None:
    """Schemes that differ by luck, a shift of all windows, and by the text, window by window: at most 5% of the duels
    may claim a difference anywhere (here 60 duels: 7 at most, the 98% end of a binomial). The text alone would claim
    one nearly always where luck is the larger."""
    rng, runs, claims, by_text = np.random.default_rng(count), 60, 0, 0
    for _ in range(runs):
        names = [f"s{i}" for i in range(count)]
        own = {name: rng.normal(0, of_luck, 5) for name in names}
        noise = {name: rng.normal(0, of_text, (12, 1)) for name in names}
        found = comparison({name: 0.5 + own[name][0] + noise[name] for name in names})
        spreads = {name: Spread(tuple(own[name] + float(noise[name].mean()))) for name in names}
        claims += any(one.real for one in told_apart(found, spreads).values())
        by_text += any(one.beyond for one in told_apart(found).values())
    assert claims <= 7
    if of_luck > of_text:
        assert by_text > 30


def test_a_difference_beyond_both_is_real_and_has_its_size() -> None:
    rng = np.random.default_rng(0)
    found = comparison({"a": 0.5 + rng.normal(0, 0.01, (12, 1)), "b": 0.3 + rng.normal(0, 0.01, (12, 1))})
    spreads = {"a": Spread((0.5, 0.501, 0.499)), "b": Spread((0.3, 0.302, 0.299))}
    apart = told_apart(found, spreads)["a", "b"]
    assert apart.real
    assert apart.share == pytest.approx(0.2 / 0.3, rel=0.1)
    assert told_apart(found, spreads)["b", "a"].difference.hi == -apart.difference.lo
    by_text = told_apart(found)["a", "b"]
    assert by_text.luck is None
    assert by_text.beyond
    assert not by_text.real  # whoever has not looked at luck does not know
    assert (apart.verdict, by_text.verdict) == (REAL, BY_TEXT)


@pytest.mark.parametrize(
    ("share", "digits", "words"),
    [
        (-0.46, 2, "-46%"),
        (0.123, 2, "+12%"),
        (0.999, 3, "+99.9%"),
        (1.0, 2, "2 times"),
        (10.7, 2, "12 times"),
        (119.0, 2, "120 times"),
        (-0.9976, 2, "-99.8%"),  # not all of it is gone
        (-1.0, 2, "-100%"),
        (0.9996, 3, "+99.96%"),  # and it is not twice as much yet
        (-0.000012, 2, "-0.0012%"),
    ],
)
def test_a_share_in_words(share: float, digits: int, words: str) -> None:
    assert share_words(share, digits) == words
