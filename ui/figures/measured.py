"""The picture of all that was measured on one text: bytes against KL."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import plotly.graph_objects as go

from quantcore.measure.duel import short_label
from quantcore.measure.measured import Measured, frontier
from ui.components.palette import BLUE, SLATE, VERMILION
from ui.figures.base import figure
from ui.figures.duel import log_ticks
from ui.markdown import plotted

NAMED = 14  # points with their names beside them, at most
LONGEST = 34  # letters of a name


def bytes_and_kl(rows: Sequence[Measured], chosen: Collection[str]) -> go.Figure:
    """A point a scheme; the line goes through those of which no other is smaller and no worse. `chosen` are keys."""
    fig = figure("What each byte buys", "checkpoint, MB", "KL to float, nats a token, log", 420, showlegend=False)
    best = frontier(rows)
    floor = min((row.report.kl for row in rows if row.report.kl > 0), default=1e-4) / 3
    line = {"mode": "lines", "line": {"color": SLATE, "width": 1, "dash": "dot"}, "hoverinfo": "skip"}
    fig.add_trace(
        go.Scatter(x=[one.report.bytes / 1e6 for one in best], y=[max(one.report.kl, floor) for one in best], **line)
    )
    line_first = [*best, *(row for row in rows if row not in best)]
    named = set(chosen) | {one.key for one in line_first[:NAMED]}
    sizes = sorted(row.report.bytes / 1e6 for row in rows)
    place = {row.key: number for number, row in enumerate(sorted(rows, key=lambda one: one.report.bytes))}
    labels = [plotted(short_label(row.scheme, LONGEST)) for row in rows]
    fig.add_trace(
        go.Scatter(
            x=[row.report.bytes / 1e6 for row in rows],
            y=[max(row.report.kl, floor) for row in rows],
            mode="markers+text",
            text=[label if row.key in named else "" for row, label in zip(rows, labels, strict=True)],
            textposition=[_beside(place[row.key], row.report.bytes / 1e6, sizes) for row in rows],
            customdata=labels,
            marker={"size": 11, "color": [VERMILION if row.key in chosen else BLUE for row in rows]},
            hovertemplate="%{customdata}: %{x:.2f} MB, KL %{y:.4g}<extra></extra>",
        )
    )
    margin = 0.18 * (sizes[-1] - sizes[0]) or 1.0
    fig.update_xaxes(range=[sizes[0] - margin, sizes[-1] + margin])
    fig.update_yaxes(type="log", **log_ticks([max(row.report.kl, floor) for row in rows]))
    return fig


def _beside(place: int, size: float, sizes: Sequence[float]) -> str:
    """Where the name of a point stands, the `place`-th by size: toward the picture's middle, in turn above and below,
    so that those of two points in one spot are both read."""
    side = "left" if size > (sizes[0] + sizes[-1]) / 2 else "right"
    return f"{'top' if place % 2 else 'bottom'} {side}"
