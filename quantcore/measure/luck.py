"""Rounding luck: how far a scheme's KL moves when nothing that matters changes.

    plans = jittered("w:int4/group128")          the scheme, its scales moved within half a 16-bit grain: JITTERS times
    spread = Spread((0.1031, 0.1042, ...))       the KL of the scheme itself and of each of them, on the same text

An interval over texts knows nothing of it: the more text, the surer it is that a scheme differs from itself with other
luck. So two schemes are told apart only where their difference is beyond both: the spread of texts and that of luck.

    luck of a difference     s^2 = s_a^2 + s_b^2, s the standard deviation over a scheme and its jitters
    p                        two-sided, of t = (a - b) / s with Welch-Satterthwaite degrees of freedom
    both together            the two bars added as squares: 1 / z^2 = 1 / z_text^2 + 1 / z_luck^2, z the normal quantile
                             of each p; so a difference is real only if it is beyond either

Source: Welch 1947, The generalization of Student's problem when several different population variances are involved.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from functools import lru_cache

from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

JITTERS = 4
USUAL = 0.08  # of the KL luck alone may move a difference: 2.3 * 2^0.5 times the 2.3% of results/told_apart.json
NORMAL = statistics.NormalDist()


@dataclass(frozen=True)
class Spread:
    """Values of one scheme under luck alone: its own first, then those of its jitters. One value: not measured."""

    values: tuple[float, ...]

    @property
    def deviation(self) -> float:
        """Standard deviation of one draw of luck."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def freedom(self) -> int:
        return len(self.values) - 1


def jittered(text: str, count: int = JITTERS) -> list[str]:
    """The plan's text with other luck, `count` times; none where no scale of a weight has a 16-bit grain to move in."""
    if not any(_has_grain(one) for one in Plan.parse(text).schemes):
        return []
    return [_jittered(text, seed) for seed in range(1, count + 1)]


def without_jitter(text: str) -> str:
    """The plan's text with the scales where the formula puts them: a plan without jitters as it is."""
    return str(_with_jitter(Plan.parse(text), 0)) if "/jitter" in text else text


def luck_p(difference: float, one: Spread, other: Spread) -> float:
    """How likely luck alone makes a difference as large, two-sided."""
    from scipy.special import stdtr  # 0.2 s to import: only those who weigh luck pay it

    scale, freedom = _scale_and_freedom(one, other)
    if scale == 0:
        return float(difference == 0)
    return 2 * float(stdtr(freedom, -abs(difference) / scale))


def luck_bar(one: Spread, other: Spread, level: float = 0.95) -> float:
    """Half the width of the interval in which luck alone puts the difference of two schemes that are equal."""
    from scipy.special import stdtrit

    scale, freedom = _scale_and_freedom(one, other)
    return scale and scale * float(stdtrit(freedom, (1 + level) / 2))


def both(p_text: float, p_luck: float) -> float:
    """The p of a difference that has to be beyond two bars, added as squares."""
    if min(p_text, p_luck) <= 0 or max(p_text, p_luck) >= 1:
        return max(p_text, p_luck)
    texts, lucks = NORMAL.inv_cdf(p_text / 2), NORMAL.inv_cdf(p_luck / 2)
    return 2 * NORMAL.cdf(-1 / math.sqrt(1 / texts**2 + 1 / lucks**2))


@lru_cache(256)  # a page asks again with every move
def _jittered(text: str, seed: int) -> str:
    return str(_with_jitter(Plan.parse(text), seed))


def _with_jitter(plan: Plan, seed: int) -> Plan:
    def moved(scheme: Scheme) -> Scheme:
        if scheme.weights is None or not _has_grain(scheme):
            return scheme
        return replace(scheme, weights=replace(scheme.weights, jitter=seed))

    return Plan(moved(plan.default), tuple((pattern, moved(scheme)) for pattern, scheme in plan.overrides))


def _has_grain(scheme: Scheme) -> bool:
    """Whether the weights' scales, or the global one that they stand under, may lie anywhere within half a grain."""
    return scheme.weights is not None and scheme.weights.scales.has_grain


def _scale_and_freedom(one: Spread, other: Spread) -> tuple[float, float]:
    """s of a difference, and its degrees of freedom."""
    a, b = one.deviation**2, other.deviation**2
    if a + b == 0:
        return 0.0, 1.0
    parts = (a**2 / one.freedom if a else 0.0) + (b**2 / other.freedom if b else 0.0)
    return math.sqrt(a + b), (a + b) ** 2 / parts
