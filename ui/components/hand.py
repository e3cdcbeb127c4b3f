"""Two controls for a guess, moved by mouse, by touch or by keys: a number on an axis, and cards in an order.

    text = ruler(label="How many dB?", lo=0, hi=30, step=0.5, unit="dB", start=None, key="guess_3")      "12", or None
    text = sorter(label="Sort the columns", cards=[("7", curve), ...], start="1,2,3", key="guess_13")

Both hand over a text, as guesses are kept everywhere, and None until they were touched. `start` moves the control only
when it changes from outside: what the hand did stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ui.components.bridge import component, encode

_mount_ruler = component("ruler")
_mount_sorter = component("sorter")
MOST_TICKS = 9


def ruler(
    *,
    label: str,
    lo: float,
    hi: float,
    step: float,
    unit: str,
    start: str | None,
    key: str,
    name: str = "",
    ticks: Sequence[tuple[float, str]] = (),
    counts: Sequence[float] = (),
    edges: Sequence[float] = (),
) -> str | None:
    """Draw the axis; the number as it was released last. Raises: ValueError unless lo < hi and edges fit the counts."""
    if not lo < hi:
        raise ValueError(f"the ruler {key!r} goes from {lo:g} to {hi:g}; its ends must differ")
    if counts and len(edges) != len(counts) + 1:
        raise ValueError(f"the ruler {key!r}: {len(counts)} counts need {len(counts) + 1} edges, got {len(edges)}")
    message = {
        "key": key,
        "label": label,
        "lo": lo,
        "hi": hi,
        "step": step,
        "unit": unit,
        "name": name,
        "hint": "Drag me",
        "value": None if start is None else float(start),
        "start_id": f"{key}/{start}",
        "ticks": [list(tick) for tick in ticks] or [[place, f"{place:g}"] for place in round_places(lo, hi)],
        "counts": list(counts),
        "edges": list(edges),
    }
    return _answer(_mount_ruler, message, start)


def sorter(*, label: str, cards: Sequence[tuple[str, Sequence[float]]], start: str | None, key: str) -> str | None:
    """Draw the cards; their order as numbers from 1 on."""
    order = range(len(cards)) if start is None else [int(part) - 1 for part in start.split(",")]
    message = {
        "key": key,
        "label": label,
        "cards": [{"name": name, "curve": list(curve)} for name, curve in cards],
        "order": list(order),
        "start_id": f"{key}/{start}",
    }
    return _answer(_mount_sorter, message, start)


def round_places(lo: float, hi: float) -> list[float]:
    """Round numbers from lo to hi, at most MOST_TICKS of them: every 1, 2 or 5, times a power of ten."""
    power = 10.0 ** math.floor(math.log10((hi - lo) / MOST_TICKS))
    steps = (power * times for times in (1, 2, 5, 10, 20))
    step = next(one for one in steps if math.floor(hi / one) - math.ceil(lo / one) < MOST_TICKS)
    return [step * place for place in range(math.ceil(lo / step), math.floor(hi / step) + 1)]


def _answer(mount: Any, message: dict[str, Any], start: str | None) -> str | None:
    """The browser's answer, unless it answers an older start."""
    result = mount(encode(message), key=message["key"], default={"value": None}, on_value_change=_nothing)
    value = result.get("value")
    if not isinstance(value, dict) or value.get("start_id") != message["start_id"]:
        return start
    text = value.get("text")
    return text if isinstance(text, str) else start


def _nothing() -> None:
    """A release reruns the page; there is nothing else to do."""
