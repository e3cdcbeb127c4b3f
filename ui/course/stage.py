"""What the scenes' pictures share: large type, no title (the question stands above), the guess and the truth marked."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from ui.components.palette import GREEN, VERMILION
from ui.figures.base import figure

SIZE = 15  # pixels: read from the back of a room


def picture(x: str, y: str, height: int, **layout: Any) -> go.Figure:
    fig = figure("", x, y, height, **{"font": {"size": SIZE}, "margin": {"l": 8, "r": 12, "t": 34, "b": 8}, **layout})
    fig.update_layout(title=None)
    return fig


def fitted(fig: go.Figure, height: int, **layout: Any) -> go.Figure:
    """A page's picture at a scene's height, its title smaller; the picture itself stays as it was."""
    made = go.Figure(fig)
    made.update_layout(height=height, margin={"l": 8, "r": 8, "t": 40, "b": 8}, **layout)
    return made


def mark(fig: go.Figure, axis: str, guess: float | None, truth: float | None) -> go.Figure:
    """The guess as a dashed line across an axis, and the truth as a solid one; their names do not meet."""
    made = go.Figure(fig)
    draw = made.add_vline if axis == "x" else made.add_hline
    apart = guess is not None and (truth is None or abs(guess - truth) > 1e-9)
    first = truth is not None and apart and guess is not None and truth < guess  # whose name stands on the left
    marks = [(truth, "measured", GREEN, "solid", "left" if first else "right")]
    marks += [(guess, "your guess", VERMILION, "dash", "right" if first else "left")] if apart else []
    for value, name, colour, dash, side in marks:
        if value is not None:
            draw(
                value,
                line={"color": colour, "width": 3, "dash": dash},
                annotation={"text": name, "font": {"color": colour, "size": SIZE}},
                annotation_position=f"top {side}",
            )
    return made


def short(layer: str) -> str:
    """A layer as it is said: `block 1, down_proj`."""
    parts = layer.split(".")
    number = next((part for part in parts if part.isdigit()), None)
    return parts[-1] if number is None else f"block {number}, {parts[-1]}"
