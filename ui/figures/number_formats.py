"""Pictures of the page Number formats: how many of the tensor's values fall on each code."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from quantcore.studies.number_formats import CodeUse
from ui.components.palette import MUTED, token
from ui.figures.base import figure


def code_bars(use: CodeUse, colour: str) -> go.Figure:
    """One bar a code at its real value; a cross where no value fell."""
    counts = np.array(use.counts, np.float32)
    levels = use.grid.levels().numpy()
    title, across = f"{use.grid.label}: SQNR {use.sqnr_db:z.1f} dB", f"value; {use.unused} of {len(counts)} unused (x)"
    fig = figure(title, across, "values on it (log)", 300, showlegend=False, bargap=0.1)
    codes = use.grid.fmt.grid().numpy()
    fig.add_trace(
        go.Bar(
            x=levels,
            y=counts,
            customdata=codes,
            marker={"color": token(colour), "line": {"width": 0}},
            hovertemplate="code %{customdata:g} = %{x:.4g}<br>%{y:.0f} values<extra></extra>",
        )
    )
    empty = counts == 0
    fig.add_trace(
        go.Scatter(
            x=levels[empty],
            y=np.full(int(empty.sum()), 0.7, np.float32),
            customdata=codes[empty],
            mode="markers",
            marker={"symbol": "x-thin", "size": 6, "line": {"width": 1, "color": MUTED}},
            hovertemplate="code %{customdata:g} = %{x:.4g}: no value falls on it<extra></extra>",
        )
    )
    top = float(counts.max()) if counts.max() > 0 else 1.0
    fig.update_yaxes(type="log", range=[-0.3, float(np.log10(top)) + 0.2], dtick=1)
    return fig
