"""The picture of all that was measured on one text: bytes against KL."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import plotly.graph_objects as go

from quantcore.measure.duel import short_label
from quantcore.measure.measured import Measured, frontier
from ui.components.palette import BLUE, VERMILION
from ui.figures.base import figure, log_ticks, thin_line
from ui.figures.names import ends, positions, share
from ui.markdown import plotted
from ui.words.digits import shown_kl

LONGEST = 40  # letters of a name
PLOT = (700.0, 280.0)  # pixels of the plot in a window of 900


def bytes_and_kl(rows: Sequence[Measured], chosen: Collection[str]) -> go.Figure:
    """A point a scheme; the line goes through those of which no other is smaller and no worse. `chosen` are keys.
    Names stand where there is room: those of chosen points first, then of those on the line."""
    fig = figure("What each byte buys", "checkpoint, MB", "KL to float, nats a token, log", 420, showlegend=False)
    floor = min((row.report.kl for row in rows if row.report.kl > 0), default=1e-4) / 3
    xs = {row.key: row.report.bytes / 1e6 for row in rows}
    ys = {row.key: max(row.report.kl, floor) for row in rows}
    best = frontier(rows)
    fig.add_trace(thin_line([xs[one.key] for one in best], [ys[one.key] for one in best]))
    ordered = sorted(rows, key=lambda row: (row.key not in chosen, row not in best))
    names = [plotted(short_label(row.scheme, LONGEST)) for row in ordered]
    across, up = ends(xs.values(), 0.18), ends(map(math.log10, ys.values()), 0.1)
    points = {row.key: (share(xs[row.key], across), share(math.log10(ys[row.key]), up)) for row in ordered}
    line_through = [points[one.key] for one in best]
    places = positions(list(points.values()), names, PLOT, line_through, sure=len(chosen))
    drawn = list(zip(ordered, names, places, strict=True))[::-1]  # those that are chosen lie on top
    fig.add_trace(
        go.Scatter(
            x=[xs[row.key] for row, _, _ in drawn],
            y=[ys[row.key] for row, _, _ in drawn],
            mode="markers+text",
            text=[name if place else "" for _, name, place in drawn],
            textposition=[place or "middle right" for _, _, place in drawn],
            customdata=[[name, shown_kl(row.scheme, row.report.kl)] for row, name, _ in drawn],
            marker={"size": 11, "color": [VERMILION if row.key in chosen else BLUE for row, _, _ in drawn]},
            hovertemplate="%{customdata[0]}: %{x:.2f} MB, KL %{customdata[1]}<extra></extra>",
        )
    )
    fig.update_xaxes(range=across)
    fig.update_yaxes(type="log", range=up, **log_ticks(list(ys.values())))
    return fig
