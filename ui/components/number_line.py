"""A number line that can be dragged: which values a format has, and what becomes of one number.

Streamlit's slider answers on release; this one answers at every pixel, because the sum is done in the browser, in
float32 and by the engine's rule (web/quantize.js), and on release the server can confirm it bit for bit:

    integer formats   q = clamp(round(x / s) + z, qmin, qmax), a tie to the even integer
    float formats     q = the code nearest to x / s, a tie to the code flagged even, clamped
    both              x_hat = s * (q - z), error = x_hat - x

    setting = number_line([Line("int4", "blue", range(-8, 8), [c % 2 == 0 for c in range(-8, 8)], scale=0.1)],
                          key="grid", lo=-1, hi=1, x=0.437, counts=counts, edges=edges, label="weights of layer 3")
    setting.x, setting.clip, setting.scales, setting.zero_points

Values that the user has moved stay until the page sends another start for them: a new `x` or axis moves x, new lines
reset scales and zero points; both come back as sent, so a stale answer to older lines is never returned.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ui.components.bridge import component, encode
from ui.components.palette import SERIES

MOST_LINES = 3

_mount = component("number_line")


@dataclass(frozen=True)
class Line:
    """One format's grid: its levels are scale * (code - zero_point).

    codes       ascending; integers for an integer format, unscaled real values for a float format
    even        per code: does a tie go to it? (an even integer; a float whose last mantissa bit is 0)
    zero_point  None: symmetric, there is none and no slider for it
    integer     whether codes are consecutive integers to round to
    """

    label: str
    colour: str
    codes: Sequence[float]
    even: Sequence[bool]
    scale: float
    zero_point: int | None = None
    integer: bool = True

    def __post_init__(self) -> None:
        for name in ("codes", "even"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.colour not in SERIES:
            raise ValueError(f"line {self.label!r} has colour {self.colour!r}; known colours: {', '.join(SERIES)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"line {self.label!r} has scale {self.scale}; a scale is a positive number")
        if len(self.codes) < 2 or any(b <= a for a, b in zip(self.codes, self.codes[1:], strict=False)):
            raise ValueError(f"line {self.label!r} needs two or more codes in ascending order, got {self.codes[:9]}")
        if len(self.even) != len(self.codes):
            raise ValueError(f"line {self.label!r} has {len(self.codes)} codes but {len(self.even)} even")
        if self.zero_point is not None and not self.integer:
            raise ValueError(f"line {self.label!r} is a float format with zero_point {self.zero_point}; use None")


@dataclass(frozen=True)
class Setting:
    """Where the user left the number line. `scales` are the ones in force: clip is already in them."""

    x: float
    clip: float
    scales: tuple[float, ...]
    zero_points: tuple[int | None, ...]


def number_line(
    lines: Sequence[Line],
    *,
    key: str,
    lo: float,
    hi: float,
    x: float,
    counts: Sequence[int],
    edges: Sequence[float],
    label: str = "",
) -> Setting:
    """Draw one to three grids over the histogram (counts, edges); the setting as of the last release.

    Raises: ValueError if there are no or too many lines, lo >= hi, x is outside, or edges are not one more than counts.
    """
    message = describe(lines, key=key, lo=lo, hi=hi, x=x, counts=counts, edges=edges, label=label)
    result = _mount(encode(message), key=key, default={"value": None}, on_value_change=_nothing)
    return read(result.get("value"), message)


def describe(
    lines: Sequence[Line],
    *,
    key: str,
    lo: float,
    hi: float,
    x: float,
    counts: Sequence[int],
    edges: Sequence[float],
    label: str,
) -> dict[str, Any]:
    """The message to the browser, as plain data. The two ids tell which values the page has changed."""
    if not 1 <= len(lines) <= MOST_LINES:
        raise ValueError(f"number line {key!r} got {len(lines)} lines; it draws 1 to {MOST_LINES}")
    if not lo <= x <= hi or lo == hi:
        raise ValueError(f"number line {key!r}: x={x} must lie on an axis from {lo} up to {hi}")
    if len(edges) != len(counts) + 1:
        raise ValueError(f"number line {key!r}: {len(counts)} counts need {len(counts) + 1} edges, got {len(edges)}")
    drawn = [asdict(line) for line in lines]
    return {
        "key": key,
        "label": label,
        "lines": drawn,
        "lo": float(lo),
        "hi": float(hi),
        "x": float(x),
        "counts": [int(count) for count in counts],
        "edges": [float(edge) for edge in edges],
        "lines_id": _identity(drawn),
        "axis_id": _identity([float(lo), float(hi), float(x)]),
    }


def read(value: Any, message: dict[str, Any]) -> Setting:
    """The browser's answer, except where it answers an older message."""
    answer = value if isinstance(value, dict) else {}
    clip = float(answer.get("clip", 1.0))
    current = answer.get("lines_id") == message["lines_id"]
    lines = answer["lines"] if current else [{**line, "scale": line["scale"] * clip} for line in message["lines"]]
    return Setting(
        x=float(answer["x"] if answer.get("axis_id") == message["axis_id"] else message["x"]),
        clip=clip,
        scales=tuple(float(line["scale"]) for line in lines),
        zero_points=tuple(line["zero_point"] for line in lines),
    )


def _identity(data: Any) -> str:
    return hashlib.sha256(encode({"data": data})).hexdigest()[:12]


def _nothing() -> None:
    """A release reruns the page; there is nothing else to do."""
