"""Where in a model an idea is seen best: the layer that a measured figure picks, or None where no layer shows it.

    wall(stats)        a channel that is loud on every token: the largest ratio of channel maxima among the layers whose
                       tokens are alike (largest token below TOKEN_RATIO times the median one)
    giant(stats)       one token that dwarfs the others: the largest ratio of token maxima, at least TOKEN_RATIO
    one_sided(stats)   values that reach far to one side: the largest max(-lo, hi) / min(-lo, hi), at least ONE_SIDED,
                       again among layers whose tokens are alike, or it would be the giant's
    uneven(weights)    rows of very different reach: the largest ratio of row maxima

A token's maximum is taken at its position over all windows (`LayerStats.position_absmax`); with one window it is the
token's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from quantcore.pipeline.calibration import LayerStats, outlier_ratio, over_median
from quantcore.studies.outliers import CHANNEL_RATIO, TOKEN_RATIO

ONE_SIDED = 2.0
ALIKE = 5.0  # token maxima below this many times the median one: no single token makes the range


@dataclass(frozen=True)
class Found:
    """A layer, and the figure that picked it out of `of` layers."""

    layer: str
    figure: float
    of: int


def wall(stats: Mapping[str, LayerStats]) -> Found | None:
    alike = {name: outlier_ratio(one) for name, one in stats.items() if token_ratio(one) < TOKEN_RATIO}
    return _largest(alike, CHANNEL_RATIO, len(stats))


def giant(stats: Mapping[str, LayerStats]) -> Found | None:
    return _largest({name: token_ratio(one) for name, one in stats.items()}, TOKEN_RATIO, len(stats))


def one_sided(stats: Mapping[str, LayerStats]) -> Found | None:
    alike = {name: lopsided(*reach(one)) for name, one in stats.items() if token_ratio(one) < ALIKE}
    return _largest(alike, ONE_SIDED, len(stats))


def uneven(weights: Iterable[tuple[str, Tensor]]) -> Found | None:
    """The weights, (O, K) each, are looked at one after another, so they need not be in memory together."""
    ratios = {name: over_median(weight.abs().amax(1)) for name, weight in weights}
    return _largest(ratios, 0.0, len(ratios))


def token_ratio(stats: LayerStats) -> float:
    """Largest over median of the token maxima; 1 where nothing was seen."""
    return 1.0 if stats.position_absmax is None else over_median(stats.position_absmax)


def reach(stats: LayerStats) -> tuple[float, float]:
    """The least and the greatest value seen, widened to hold 0."""
    return min(0.0, float(stats.ranges.lo)), max(0.0, float(stats.ranges.hi))


def lopsided(lo: float, hi: float) -> float:
    """How many times further a range [lo, hi] around 0 reaches to its longer side."""
    longer, shorter = max(-lo, hi), min(-lo, hi)
    return longer / max(shorter, 1e-3 * longer) if longer else 1.0


def _largest(figures: Mapping[str, float], least: float, of: int) -> Found | None:
    """The layer with the largest figure; of equals the first, as layers that share an input are."""
    layer = max(figures, key=lambda name: figures[name], default=None)
    return None if layer is None or figures[layer] < least else Found(layer, figures[layer], of)
