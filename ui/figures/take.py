"""The picture of the page Take it with you: bytes by part, the model before and after."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.export.promise import Promise
from ui.components.palette import AMBER, BLUE, GREEN, PURPLE, SLATE, VERMILION, token
from ui.figures.base import LEGEND, figure

PARTS = {
    "weights before": token("blue", 0.4),
    "codes": BLUE,
    "scales": VERMILION,
    "zero points": AMBER,
    "groups of columns": PURPLE,
    "input ranges": GREEN,
    "cache ranges": token("green", 0.5),
    "float rest": SLATE,
}


def bytes_by_part(parts: Promise, label: str) -> go.Figure:
    """Two bars on one axis, MB: the float model and its checkpoint, split into what the bytes are for."""
    before, after = f"float, {parts.dtype}", label
    widths = {
        "weights before": (parts.float_bytes - parts.parts["float rest"], 0),
        **{part: (0, size) for part, size in parts.parts.items()},
        "float rest": (parts.parts["float rest"],) * 2,
    }
    fig = figure(
        "Bytes by part",
        height=178,
        barmode="stack",
        bargap=0.35,
        showlegend=True,
        xaxis={"title": {"text": "MB"}, "automargin": True},
        yaxis={"automargin": True, "autorange": "reversed", "type": "category", "ticksuffix": " "},
        margin={"l": 8, "r": 8, "t": 54, "b": 8},
        legend={**LEGEND, "traceorder": "normal", "y": 0.99, "yanchor": "top", "x": 1, "xanchor": "right"},
    )
    fig.add_traces(
        [
            go.Bar(
                x=[size / 1e6 for size in sizes],
                y=[before, after],
                orientation="h",
                name=name,
                marker={"color": PARTS[name]},
                hovertemplate=f"{name}: %{{x:.3f}} MB<extra></extra>",
            )
            for name, sizes in widths.items()
            if any(sizes)
        ]
    )
    return fig
