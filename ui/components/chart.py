"""The one chart of this app: a Plotly figure whose camera, zoom and DOM node survive a change of its data.

`st.plotly_chart` builds the picture anew for every change: the camera that a student has just turned jumps back, and a
surface takes seconds. Here the figure goes to `Plotly.react` in the same node, which changes only what differs.

    point = chart(fig, key="weights", alt="int4 per tensor: error 3.1x that of per channel", on_click=True)

Colours are names (see palette.py) and are painted in the browser, so a switch between light and dark needs no rerun;
nor do fonts, grids and backgrounds, which follow Streamlit's theme unless the figure says otherwise.
With a `Hand` a slider stands below the picture, and moves it while it is dragged: the browser has each step's numbers.

Zoom and camera are kept while `fig.layout.uirevision` stays the same (default: for ever). Give it, say, the layer's
name to start afresh with another layer. The wheel scrolls the page; with Ctrl it zooms a 3-D chart.
Tests wait for `data-drawn`, a counter on the chart's element, to go up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ui.components.bridge import component, encode
from ui.components.palette import refuse_unknown

DEFAULT_HEIGHT = 420

HAND_HEIGHT = 44  # pixels


@dataclass(frozen=True)
class Hand:
    """A slider below a chart. label, steps: what it says; at: the step that `fig` shows; frames: for each step a figure
    whose traces' fields take the place of those of the chart's first traces, and whose title, if any, of its title."""

    label: str
    steps: Sequence[str]
    at: int
    frames: Sequence[go.Figure]


Over = dict[str, list[dict[str, Any]]]

_mount = component("chart")
_mount_head_start = component("head_start")


def head_start() -> None:
    """Let the browser fetch the drawing library now, while the server computes; draws nothing."""
    _mount_head_start(b"{}", key="head_start")


def chart(
    fig: go.Figure,
    *,
    key: str,
    alt: str,
    height: int | None = None,
    on_click: bool = False,
    link: str | None = None,
    over: Over | None = None,
    hand: Hand | None = None,
    grow: float = 0.0,
) -> dict[str, Any] | None:
    """Draw `fig`; the clicked point if `on_click` and this rerun comes from a click, else None.

    alt       the finding in one sentence, with its numbers: what a listener hears in place of the picture
    height    pixels, reserved before anything is drawn (default: the figure's own height, else 420)
    link      3-D charts of one page with the same link turn together
    over      shapes and annotations on top of the figure's own, in plotly.js's words; `fig` stays as it is
    hand      a slider that moves the picture as it is dragged; when it is let go, the answer is {"step": its text}
    grow      the share that it takes of what the window has left over, which a page's CSS says in --lab-tall
    Returns: x, y, z, customdata, text, name (each if the trace has it), curve (the trace's number) and point (the
    index in the trace; [row, column] for a heatmap).
    Raises: ValueError without alt or with an unknown colour name, TypeError for float16 data.
    """
    height = int(height or fig.layout.height or DEFAULT_HEIGHT)
    payload = encode_chart(
        fig, key=key, alt=alt, height=height, on_click=on_click, link=link, over=over, hand=hand, grow=grow
    )
    high = "content" if grow else height + (HAND_HEIGHT if hand else 0)
    result = _mount(payload, key=key, height=high, on_click_change=_nothing, on_hand_change=_nothing)
    if hand is not None and isinstance(step := result.get("hand"), str):
        return {"step": step} if step in hand.steps else None
    clicked = result.get("click")
    return clicked if on_click and isinstance(clicked, dict) else None


def encode_chart(
    fig: go.Figure,
    *,
    key: str,
    alt: str,
    height: int,
    on_click: bool,
    link: str | None,
    over: Over | None = None,
    hand: Hand | None = None,
    grow: float = 0.0,
) -> bytes:
    """The message to the browser: JSON bytes, arrays packed as base64 by plotly.py."""
    if not alt.strip():
        raise ValueError(
            f"chart {key!r} has an empty alt; say in one sentence what the picture shows, with its numbers"
        )
    figure = fig.to_dict()
    figure["layout"].pop("template", None)
    for name, more in (over or {}).items():
        figure["layout"][name] = [*figure["layout"].get(name, ()), *more]
    for place, array in _arrays(figure, "figure"):
        if array.dtype == np.float16:
            raise TypeError(
                f"chart {key!r}: {place} is float16 of shape {array.shape}, which the browser cannot unpack;"
                " use .astype('float32'), or uint8 with tick labels"
            )
    shown = {
        "key": key, "alt": alt, "height": height, "grow": grow, "click": on_click, "link": link, "figure": figure,
    }  # fmt: skip
    if hand is not None:
        frames = [frame.to_dict()["data"] for frame in hand.frames]
        moved = [[{name: one for name, one in trace.items() if name != "type"} for trace in frame] for frame in frames]
        titles = [frame.layout.title.text for frame in hand.frames]
        shown["hand"] = {
            "label": hand.label, "steps": list(hand.steps), "at": hand.at, "frames": moved, "titles": titles,
        }  # fmt: skip
    payload = encode(shown)
    refuse_unknown(payload)
    return payload


def _arrays(node: Any, place: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every numpy array in a figure that plotly.py did not pack, with the path to it."""
    if isinstance(node, np.ndarray):
        yield place, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _arrays(value, f"{place}.{name}")
    elif isinstance(node, list | tuple) and node and not isinstance(node[0], int | float | str):
        for i, value in enumerate(node):
            yield from _arrays(value, f"{place}[{i}]")


def _nothing() -> None:
    """A click reruns the page; there is nothing else to do."""
