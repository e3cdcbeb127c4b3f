"""An observer chooses the real range [lo, hi] that the codes should cover.

Twice the same question. For a tensor at hand (a weight, or a dynamic activation) `tile_range` answers once per tile.
For a static activation the tensor is a stream that nobody keeps: `RangeRecorder` watches it batch by batch and holds
only min, max, moving averages and a histogram of fixed size, so its memory does not grow with the text.

    minmax      [min, max]: nothing is clipped, one outlier stretches every step
    ema         moving average of each window's min and max: late windows weigh more, rare peaks are clipped
    p99.9       0.1% beyond each end is clipped
    search      of coded scales, that with the least squared error around the one of min-max; search=h: each column's
                error weighted
    mse         min-max shrunk by the factor of SHRINK with the least squared error: clipping against rounding

Source of mse as a search over shrink factors: Nagel et al. 2021, arXiv:2106.08295, section 3.1.1 (range setting).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quantcore.numbers.affine import qparams_of_range, round_trip
from quantcore.numbers.histogram import merge_outward
from quantcore.numbers.selection import kth_smallest
from quantcore.numbers.spec import MinMax, MovingAverage, Mse, Observer, Percentile, QuantSpec, Search

SHRINK = tuple(1 - 0.02 * step for step in range(41))  # 1.00, 0.98 ... 0.20
HALF_BINS = 16384
MOST_COUNTED = 2**24  # histc counts in float32, which is exact up to here


def tile_range(
    tiles: Tensor,
    spec: QuantSpec,
    counts: Tensor | None = None,
    global_scale: Tensor | None = None,
    power: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The range of each tile as `spec.observer` sees it.

    Shapes: tiles (T, n); counts (n,), how often each column's value occurred (None: once); power (T / k, n), what an
    error counts in each of k runs of as many tiles (None: 1); lo and hi (T, 1), float32.
    A moving average over a single batch is that batch's min and max."""
    tiles = tiles.float()
    lo, hi = tiles.amin(-1, keepdim=True), tiles.amax(-1, keepdim=True)
    if isinstance(spec.observer, Percentile):
        below, above = _percentiles(tiles, spec.observer.percent, counts)
        return torch.maximum(lo, below), torch.minimum(hi, above)
    if isinstance(spec.observer, Mse):
        return _least_mse(tiles, lo, hi, spec, counts, global_scale)
    if isinstance(spec.observer, Search):
        return _searched(tiles, lo, hi, spec, global_scale, power)
    return lo, hi


def _searched(
    tiles: Tensor, lo: Tensor, hi: Tensor, spec: QuantSpec, global_scale: Tensor | None, power: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The range of that coded scale around min-max's whose round trip has the least (weighted) squared error, tile by
    tile; of equals min-max's own."""
    start = qparams_of_range(lo, hi, spec, global_scale)

    def error_of(scale: Tensor) -> Tensor:
        squared = (round_trip(tiles, start._replace(scale=scale), spec.fmt) - tiles).square()
        if power is None:
            return squared.sum(-1, keepdim=True)
        return (squared.view(-1, *power.shape) * power).sum(-1).view(-1, 1)

    best, least = start.scale, error_of(start.scale)
    for scale in spec.scales.neighbours(start.scale, start.global_scale):
        error = error_of(scale)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    reach = torch.where(best == start.scale, torch.maximum(-lo, hi), spec.scales.reach_of(best, spec.fmt))
    return -reach, reach


def _percentiles(tiles: Tensor, percent: float, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values with (100 - percent)% of the weight strictly beyond them, at either end: an element, no interpolation."""
    if counts is None:
        return _equal_percentiles(tiles, percent)
    values, order = tiles.sort(dim=-1)
    weight = counts.to(tiles).expand_as(tiles).gather(-1, order)
    cumulative = weight.double().cumsum(-1)
    cut = torch.round(cumulative[..., -1:] * (1 - percent / 100), decimals=6)  # 1 - 0.9999 is not quite 0.0001
    last = values.shape[-1] - 1
    below = torch.searchsorted(cumulative, cut, right=True).clamp(max=last)
    above = torch.searchsorted(cumulative, cumulative[..., -1:] - cut).clamp(max=last)
    return values.gather(-1, below), values.gather(-1, above)


def _equal_percentiles(tiles: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """`_percentiles` where every value counts once: two selections instead of a sort, ten times faster."""
    count = tiles.shape[-1]
    cut = round(count * (1 - percent / 100), 6)
    below = min(math.floor(cut), count - 1) + 1
    above = max(math.ceil(count - cut), 1)
    return kth_smallest(tiles, below), kth_smallest(tiles, above)


def _least_mse(
    tiles: Tensor, lo: Tensor, hi: Tensor, spec: QuantSpec, counts: Tensor | None, global_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The range shrink * [lo, hi] whose round trip has the least (weighted) squared error, tile by tile."""
    global_scale = qparams_of_range(lo, hi, spec, global_scale).global_scale
    best_error = torch.full_like(lo, math.inf)
    best_shrink = torch.ones_like(lo)
    for shrink in SHRINK:
        qparams = qparams_of_range(lo * shrink, hi * shrink, spec, global_scale)
        squared = (round_trip(tiles, qparams, spec.fmt) - tiles).square()
        error = (squared if counts is None else squared * counts.to(squared)).sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_shrink = torch.where(better, torch.full_like(lo, shrink), best_shrink)
    return lo * best_shrink, hi * best_shrink


class RangeRecorder:
    """Watches a stream of batches and tells the range of each observer at any time.

    Holds min, max, one moving average per momentum asked for, and 2 * HALF_BINS counts over [-reach, reach]; reach is a
    power of two that doubles, two bins becoming one, whenever a larger value comes. The histogram is exact up to the
    bin's width, reach / HALF_BINS."""

    def __init__(self, momenta: tuple[float, ...] = (MovingAverage().momentum,)) -> None:
        self.lo = math.inf
        self.hi = -math.inf
        self.count = 0
        self.averages: dict[float, tuple[float, float] | None] = dict.fromkeys(momenta)
        self.steps = 0
        self.first = (0.0, 0.0)  # lo and hi of the first batch
        self.reach = 2.0**-20
        self.bins = torch.zeros(2 * HALF_BINS, dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        """Take one batch in. Raises: ValueError if it is empty or holds NaN or Inf."""
        if x.numel() == 0:
            raise ValueError("an empty batch has no range; give at least one token")
        x = x.detach().float().flatten()
        lo, hi = (float(bound) for bound in torch.aminmax(x))
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise ValueError(
                f"the activations hold NaN or Inf (range {lo:g} to {hi:g}); the model's weights are damaged"
            )
        self.lo, self.hi, self.count = min(self.lo, lo), max(self.hi, hi), self.count + x.numel()
        self.first = self.first if self.steps else (lo, hi)
        self.steps += 1
        for momentum, average in self.averages.items():
            old_lo, old_hi = average or (lo, hi)
            self.averages[momentum] = (old_lo + momentum * (lo - old_lo), old_hi + momentum * (hi - old_hi))
        self._widen(max(-lo, hi))
        for part in torch.split(x, MOST_COUNTED):
            counts = torch.histc(part, 2 * HALF_BINS, -self.reach, self.reach)
            self.bins += counts.to(device="cpu", dtype=torch.float64)

    @staticmethod
    def joined(recorders: Sequence[RangeRecorder]) -> RangeRecorder:
        """One that would have watched the streams of all, one after another; the moving averages up to rounding.

        n batches take an average from a to (1 - m)^n a + c. A stream's own average A begins at its first batch f, which
        leaves it there, so c = A - (1 - m)^n f."""
        seen = [one for one in recorders if one.steps] or list(recorders[:1])
        whole = copy.deepcopy(seen[0])
        for one in seen[1:]:
            whole.lo, whole.hi = min(whole.lo, one.lo), max(whole.hi, one.hi)
            whole.count, whole.steps = whole.count + one.count, whole.steps + one.steps
            for momentum, before in whole.averages.items():
                own = one.averages[momentum]
                assert before is not None
                assert own is not None
                kept = (1 - momentum) ** one.steps
                lo, hi = (a + kept * (b - f) for a, b, f in zip(own, before, one.first, strict=True))
                whole.averages[momentum] = (lo, hi)
            bins = one.bins
            if one.reach < whole.reach:
                bins = merge_outward(bins, round(math.log2(whole.reach / one.reach)))
            whole._widen(one.reach)
            whole.bins = whole.bins + bins
        return whole

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        """The range that `spec.observer` would freeze now. Shapes: lo and hi (1, 1), float32.

        Raises: ValueError before the first update, or for a momentum that was not recorded."""
        if self.count == 0:
            raise ValueError("no batch was observed, so there is no range; calibrate over some text first")
        observer: Observer = spec.observer
        if isinstance(observer, MinMax):
            return _bounds(self.lo, self.hi)
        if isinstance(observer, MovingAverage):
            average = self.averages.get(observer.momentum)
            if average is None:
                raise ValueError(
                    f"momentum {observer.momentum:g} was not recorded; calibrate with momenta=({observer.momentum:g},)"
                )
            return _bounds(*average)
        occupied = self.bins > 0
        centres = (torch.arange(-HALF_BINS, HALF_BINS) + 0.5) * (self.reach / HALF_BINS)
        values = centres[occupied].float().clamp(self.lo, self.hi)
        return tile_range(values[None], spec, self.bins[occupied])

    def _widen(self, absmax: float) -> None:
        if absmax <= self.reach:
            return
        doublings = math.ceil(math.log2(absmax / self.reach))
        self.reach *= 2.0**doublings
        self.bins = merge_outward(self.bins, doublings)


def _bounds(lo: float, hi: float) -> tuple[Tensor, Tensor]:
    return torch.tensor([[lo]]), torch.tensor([[hi]])
