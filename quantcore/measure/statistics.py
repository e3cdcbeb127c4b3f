"""How sure is a difference? Intervals by resampling whole windows, because tokens of one window are not independent.

    mean       m = mean over all tokens                  the windows have one length, so it is the mean of their means
    interval   bootstrap-t: of R resamples of the windows take t* = (m* - m) / s*, s* the resample's standard error;
               the interval is [m - t*(97.5%) s, m - t*(2.5%) s]

A *paired* difference takes each window's difference first: what makes one text harder than another drops out, and with
it most of the noise. Bootstrap-t, not plain percentiles, because those are too narrow with few windows. Source: Efron &
Tibshirani 1993, An Introduction to the Bootstrap, section 12.5. The resamples come from a fixed seed: the same numbers
give the same interval.

Of many differences some leave 0 out by chance: of 15 that are all nothing, one at least in half of all cases. `holm`
makes the p of each, 2 min(P(t* >= m/s), P(t* <= m/s)), one of all together. Source: Holm 1979, A simple sequentially
rejective multiple test procedure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from torch import Tensor

K = TypeVar("K")
RESAMPLES = 2000
LEVEL = 0.95
KEPT_WINDOWS = 256  # of so many the resamples are kept, 4 MB
FEWEST_WINDOWS = 5  # of 4, one interval in ten is forty times as wide as the spread


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds the true one at `LEVEL`; from fewer than FEWEST_WINDOWS windows its ends are
    infinite: nothing can be said. `p`: how likely a mean as far from 0 is where the true one is 0, two-sided."""

    value: float
    lo: float
    hi: float
    p: float = 1.0

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside: the difference is more than chance. A difference of exactly 0 is none."""
        return self.lo > 0 or self.hi < 0


def window_interval(values: Tensor) -> Interval:
    """The mean of per-token values, (windows, T), with its interval over windows."""
    means = values.detach().cpu().double().numpy().mean(axis=1)
    return mean_interval(means)


def paired_interval(values: Tensor, others: Tensor) -> Interval:
    """The mean of values - others, token by token, with its interval over windows. Shapes: (windows, T) twice.

    Raises: ValueError if the shapes differ, for then the tokens are not the same."""
    if values.shape != others.shape:
        raise ValueError(f"cannot pair {tuple(values.shape)} with {tuple(others.shape)} tokens; use one text for both")
    return window_interval(values.double() - others.double())


def mean_interval(means: np.ndarray) -> Interval:
    """The mean of independent values, (n,), with its bootstrap-t interval."""
    return _interval(means.astype(np.float64).tobytes())


@lru_cache(maxsize=4096)  # a page asks for the same ones at every move
def _interval(packed: bytes) -> Interval:
    means = np.frombuffer(packed)
    n, mean = len(means), float(means.mean())
    if n < FEWEST_WINDOWS or not np.isfinite(means).all():
        return Interval(mean, -math.inf, math.inf)
    error = float(means.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-12 * abs(mean):
        return Interval(mean, mean, mean, float(mean == 0))
    apart, times = means - mean, _times_drawn(n) if n <= KEPT_WINDOWS else _times_drawn.__wrapped__(n)
    shifts = times @ apart / n
    spreads = np.maximum(times @ apart**2 / n - shifts**2, 0) * n / (n - 1)
    errors = np.sqrt(spreads / n)
    usable = errors > 1e-6 * error  # a resample of one window n times has no spread of its own
    t = shifts[usable] / errors[usable]
    below, above = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = min(int(np.count_nonzero(t >= mean / error)), int(np.count_nonzero(t <= mean / error)))
    p = min(1.0, 2 * (beyond + 1) / (len(t) + 1))
    return Interval(mean, mean - float(above) * error, mean - float(below) * error, p)


@lru_cache(maxsize=16)
def _times_drawn(n: int) -> np.ndarray:
    """How often each of n windows is in each resample, (RESAMPLES, n): sums over resamples are then products."""
    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(np.float64)


def holm(ps: Mapping[K, float]) -> dict[K, float]:
    """The p of each of several tests, raised so that at most 1 - LEVEL of all families with no true difference have
    one below 1 - LEVEL: the smallest times their number, the next times one less, and none below the one before."""
    found: dict[K, float] = {}
    least = 0.0
    for place, key in enumerate(sorted(ps, key=lambda key: ps[key])):
        least = found[key] = max(least, min(1.0, (len(ps) - place) * ps[key]))
    return {key: found[key] for key in ps}


def percentile(values: Tensor, percent: float) -> float:
    """The smallest value that at least `percent`% of the values do not exceed (nearest rank). Shape: any."""
    flat = values.flatten()
    return float(flat.kthvalue(max(1, math.ceil(percent / 100 * len(flat)))).values)
