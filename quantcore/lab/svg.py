"""Two pictures as SVG text, for reports that must open anywhere: intervals on one axis, and histograms laid over
another. Colours come from the page's CSS variables, so that light and dark both work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, LABELS, RIGHT, ROW, TOP, FOOT = 760, 270, 24, 30, 10, 46
PLOT_HEIGHT = 220
SERIES = ("var(--one)", "var(--two)", "var(--three)")
LOG_FROM = 30.0  # largest / smallest from which an axis of positive values is logarithmic
Row = tuple[str, float, float, float]


def intervals(rows: Sequence[Row], unit: str, alt: str) -> str:
    """One line a row (label, value, lo, hi): a dot and its whisker. Infinite ends are cut at the picture's edge.

    The axis is logarithmic where all values are positive and far apart; then it has no zero line."""
    ends = [end for _, value, lo, hi in rows for end in (value, lo, hi) if math.isfinite(end)]
    log = bool(ends) and min(ends) > 0 and max(ends) / min(ends) > LOG_FROM
    scale = _Axis(min(ends, default=0.0), max(ends, default=1.0), LABELS, WIDTH - RIGHT, log)
    height = TOP + ROW * len(rows)
    parts = _x_axis(scale, height, unit)
    for place, (label, value, lo, hi) in enumerate(rows):
        y = TOP + ROW * (place + 0.5)
        left, right = scale.at(lo), scale.at(hi)
        short = label if len(label) <= 32 else f"{label[:29]}..."
        parts.append(f'<text x="{LABELS - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(short)}</text>')
        parts.append(f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="whisker"/>')
        if math.isfinite(value):
            title = f"<title>{escape(label)}: {value:.6g} ({lo:.6g} to {hi:.6g})</title>"
            parts.append(f'<circle cx="{scale.at(value):.1f}" cy="{y:.1f}" r="5" class="dot">{title}</circle>')
    return _svg(parts, height + FOOT, alt)


def histograms(edges: Sequence[float], counts: Mapping[str, Sequence[float]], unit: str, alt: str) -> str:
    """Step lines of several counts over the same bin edges, each scaled to the tallest bin of all; log counts."""
    scale = _Axis(edges[0], edges[-1], 40, WIDTH - RIGHT, False)
    tallest = max(max(one) for one in counts.values()) or 1
    floor = TOP + PLOT_HEIGHT
    parts = _x_axis(scale, floor, unit)
    for place, (name, heights) in enumerate(counts.items()):
        points = []
        for (left, right), count in zip(pairwise(edges), heights, strict=True):
            y = floor - (PLOT_HEIGHT - 20) * math.log1p(count) / math.log1p(tallest)
            points += [f"{scale.at(left):.1f},{y:.1f}", f"{scale.at(right):.1f},{y:.1f}"]
        colour = SERIES[place % len(SERIES)]
        parts.append(f'<polyline points="{" ".join(points)}" class="step" style="stroke:{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + 14 + 18 * place}" text-anchor="end" style="fill:{colour}">')
        parts.append(f"{escape(name)}</text>")
    return _svg(parts, floor + FOOT, alt)


class _Axis:
    """Values to pixels, linear or logarithmic, with a little room at both ends."""

    def __init__(self, lo: float, hi: float, left: float, right: float, log: bool) -> None:
        self.log = log
        lo, hi = (math.log10(lo), math.log10(hi)) if log else (min(lo, hi), max(lo, hi))
        room = (hi - lo) * 0.04 or abs(hi) * 0.1 or 1.0
        self.lo, self.hi, self.left, self.right = lo - room, hi + room, left, right

    def at(self, value: float) -> float:
        if math.isinf(value):
            return self.right if value > 0 else self.left
        value = math.log10(value) if self.log else value
        return self.left + (value - self.lo) / (self.hi - self.lo) * (self.right - self.left)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.ceil(self.lo), math.floor(self.hi) + 1)
            found = [10.0**power for power in decades]
            return (
                found if len(found) > 1 else [10**self.lo * (10 ** (self.hi - self.lo)) ** (k / 4) for k in range(1, 4)]
            )
        step = 10 ** math.floor(math.log10((self.hi - self.lo) / 2))
        step = next(step * k for k in (1, 2, 5, 10) if (self.hi - self.lo) / (step * k) <= 6)
        first = math.ceil(self.lo / step)
        return [step * k for k in range(first, math.floor(self.hi / step) + 1)]


def _x_axis(scale: _Axis, y: float, unit: str) -> list[str]:
    parts = []
    for tick in scale.ticks():
        x = scale.at(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y:.1f}" class="{kind}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{tick:.3g}</text>')
    middle = (scale.left + scale.right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{y + 36:.1f}" text-anchor="middle" class="unit">{escape(unit)}</text>')
    return parts


def _svg(parts: Sequence[str], height: float, alt: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(alt)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
