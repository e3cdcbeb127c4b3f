"""Names beside the points of a scatter: none across another name or a point. Where there is no room, none: the hover
text has it.

    where = positions([(0.1, 0.8), (0.12, 0.8)], ["W4A16", "W8A8"], (700, 280))     ["top right", "bottom right"]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

LETTER, LINE = 7.6, 17.0  # pixels of the template's text; a font's widest letters are rare
NEXT = 1.0  # pixels between two points of a line that are looked at
MARKER, GAP = 6.0, 8.0  # half a marker; from its middle to where plotly begins the text
NEAR = 13.0  # so near to another point a name would be taken for that one's
SIDES = tuple(f"{v} {h}" for h in ("right", "left", "center") for v in ("top", "bottom", "middle"))[:-1]

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Trace = tuple[NDArray[np.float64], NDArray[np.float64]]


def positions(
    points: Sequence[Point],
    names: Sequence[str],
    plot: tuple[float, float],
    line: Sequence[Point] = (),
    sure: int = 0,
) -> list[str | None]:
    """Where each name stands, as plotly calls it; None where it would cross another or leave the plot, and for "".

    points   shares of the plot's width and height, from its lower left corner
    names    the most important first: it finds room before the others
    line     through these points of the plot goes a line: names stand beside it where they can
    sure     so many names, the first, rather stand near another point than not at all
    plot     pixels of the smallest plot that must be legible; in a larger one points and names only move apart"""
    width, height = plot
    middles, corners = ([(x * width, (1 - y) * height) for x, y in some] for some in (points, line))
    along = _along(corners)
    taken: list[Box] = []
    found: list[str | None] = []
    for place, (middle, name) in enumerate(zip(middles, names, strict=True)):
        others = middles[:place] + middles[place + 1 :]
        boxes = {side: name_box(middle, side, LETTER * len(name)) for side in SIDES if name}
        inside = {side: box for side, box in boxes.items() if _inside(box, width, height)}
        free = _free(inside, [*taken, *(marker_box(*one, MARKER if _same(one, middle) else NEAR) for one in others)])
        if not free and place < sure:
            free = _free(inside, [*taken, *(marker_box(*one) for one in others)])
        free.sort(key=lambda side: _on_line(boxes[side], along))
        found.append(free[0] if free else None)
        taken += [boxes[side] for side in free[:1]]
    return found


def _free(boxes: Mapping[str, Box], taken: Sequence[Box]) -> list[str]:
    return [side for side, box in boxes.items() if not any(cross(box, other) for other in taken)]


def ends(values: Iterable[float], margin: float) -> tuple[float, float]:
    """The ends of an axis over these values, with this share of their span as a margin on either side."""
    values = list(values)
    more = margin * (max(values) - min(values)) or 1.0
    return min(values) - more, max(values) + more


def share(value: float, of: tuple[float, float]) -> float:
    """Where a value stands between the ends of its axis, 0 to 1."""
    return (value - of[0]) / (of[1] - of[0])


def marker_box(x: float, y: float, reach: float = MARKER) -> Box:
    return x - reach, y - reach, x + reach, y + reach


def _same(one: Point, other: Point) -> bool:
    return math.dist(one, other) < MARKER


def name_box(middle: Point, side: str, wide: float) -> Box:
    """What the text covers at this side of its point."""
    (x, y), (vertical, horizontal) = middle, side.split()
    left = {"right": x + GAP, "left": x - GAP - wide, "center": x - wide / 2}[horizontal]
    top = {"top": y - GAP - LINE, "bottom": y + GAP, "middle": y - LINE / 2}[vertical]
    return left, top, left + wide, top + LINE


def _inside(box: Box, width: float, height: float) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height


def cross(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _on_line(box: Box, points: Trace) -> bool:
    """Whether one of the points along a line lies in the box."""
    x, y = points
    return bool(((box[0] < x) & (x < box[2]) & (box[1] < y) & (y < box[3])).any())


def _along(corners: Sequence[Point]) -> Trace:
    """A line through its corners as points, about NEXT pixels from each other; none without corners."""
    x, y = np.array(corners, float).reshape(-1, 2).T
    if not len(x):
        return x, y
    far = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])
    steps = np.linspace(0, far[-1], 2 + int(far[-1] / NEXT))
    return np.interp(steps, far, x), np.interp(steps, far, y)
