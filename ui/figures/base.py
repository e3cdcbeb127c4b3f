"""What all pictures share: margins, titles with units, heat maps that keep their outliers, step histograms, log ticks.

Colours are names that the browser paints for the light or the dark page (`ui.components.palette`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from quantcore.numbers.pooling import Pooled, pool_extreme
from ui.components.palette import DIVERGING, SEQUENTIAL, SLATE

# At the foot of the picture, whose margin then has room for it at every width. Placed by the height of the plot, it
# would lie upon the axis where a window is made wider, and its rows become fewer.
LEGEND = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "xanchor": "left", "x": 0}


def figure(title: str, x: str = "", y: str = "", height: int = 380, **layout: Any) -> go.Figure:
    """An empty figure with its title and the names (with units) of its axes."""
    return go.Figure(  # all at once: update_layout afterwards takes ten times as long
        layout={
            "title": {
                "text": title,
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "pad": {"l": 8},
                "font": {"size": 16},
            },
            "xaxis": {"title": {"text": x}, "automargin": True},
            "yaxis": {"title": {"text": y}, "automargin": True},
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 48, "b": 8},
            "legend": LEGEND,
            **layout,
        }
    )


def heat_map(
    matrix: Tensor | Pooled,
    value: str,
    *,
    rows: str = "output",
    cols: str = "input",
    signed: bool = True,
    limit: float | None = None,
    **trace: Any,
) -> go.Heatmap:
    """A heat map trace of a matrix; larger than the screen, each cell is its block's value of largest magnitude.

    value    name and unit of a cell, for the hover text and the colour bar; limit: where the colours end"""
    pooled = matrix if isinstance(matrix, Pooled) else pool_extreme(matrix)
    z = pooled.values.numpy().astype(np.float32)
    span = limit or float(np.abs(z).max()) or 1.0
    note = "" if pooled.row_step * pooled.col_step == 1 else f" (largest of {pooled.row_step} x {pooled.col_step})"
    colours: dict[str, Any] = (
        {"zmin": -span, "zmax": span, "colorscale": DIVERGING}
        if signed
        else {"zmin": 0, "zmax": span, "colorscale": SEQUENTIAL}
    )
    return go.Heatmap(
        z=z,
        x0=(pooled.col_step - 1) / 2,
        dx=pooled.col_step,
        y0=(pooled.row_step - 1) / 2,
        dy=pooled.row_step,
        hovertemplate=f"{rows} %{{y:.0f}}, {cols} %{{x:.0f}}<br>{value} %{{z:.4g}}{note}<extra></extra>",
        **{**colours, "colorbar": colour_bar(value), **trace},
    )


def thin_line(x: Sequence[float], y: Sequence[float]) -> go.Scatter:
    """A dotted line through points that speak for themselves, such as a frontier."""
    style = {"color": SLATE, "width": 1, "dash": "dot"}
    return go.Scatter(x=x, y=y, mode="lines", line=style, hoverinfo="skip", showlegend=False)


def in_steps(colours: Sequence[str]) -> list[list[Any]]:
    """A colour scale of a few colours that do not run into one another."""
    count = len(colours)
    return [[edge / count, colour] for place, colour in enumerate(colours) for edge in (place, place + 1)]


def colour_bar(value: str) -> dict[str, Any]:
    """A thin colour bar under the picture, where it takes no width from it."""
    return {
        "orientation": "h",
        "thickness": 8,
        "y": -0.22,
        "yanchor": "top",
        "title": {"text": value, "side": "bottom", "font": {"size": 12}},
        "tickfont": {"size": 12},
        "nticks": 5,
    }


def largest_of_runs(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` indices: of each run of neighbours the one with the largest value, so that no peak is lost."""
    step = -(-len(values) // most)
    padded = np.pad(values, (0, -len(values) % step), constant_values=-np.inf).reshape(-1, step)
    places: np.ndarray = padded.argmax(1) + np.arange(len(padded)) * step
    return places


def log_ticks(shown: Sequence[float]) -> dict[str, list[Any]]:
    """Ticks of a logarithmic axis over these values, written out: 1, 2, 5 a decade, else decades alone."""
    lo, hi = math.floor(math.log10(min(shown, default=1))), math.ceil(math.log10(max(shown, default=1)))
    steps = (1, 2, 5) if hi - lo <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(lo - 1, hi + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
