"""The picture of the page Rules, tested: the rule's scheme and its challengers, KL with intervals."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from quantcore.measure.duel import short_label
from quantcore.measure.rules import RuleResult
from quantcore.measure.statistics import window_interval
from ui.components.palette import BLUE, VERMILION
from ui.figures.base import figure


def bouts(result: RuleResult) -> go.Figure:
    """KL of each scheme, the rule's first; bars: 95% interval of the mean over windows."""
    mine = result.scheme
    fig = figure("The rule (o) and its challengers (x)", "KL to float, nats", "", 110 + 56 * len(result.duel.reports))
    for text in [mine, *(text for text in result.duel.reports if text != mine)]:
        interval = window_interval(result.duel.scores[text].kl)
        finite = math.isfinite(interval.lo)
        fig.add_trace(
            go.Scatter(
                x=[interval.value],
                y=[short_label(text, 60)],
                error_x={
                    "array": [interval.hi - interval.value if finite else 0],
                    "arrayminus": [interval.value - interval.lo if finite else 0],
                },
                mode="markers",
                marker={
                    "color": BLUE if text == mine else VERMILION,
                    "symbol": "circle" if text == mine else "x",
                    "size": 12,
                },
                hovertemplate=f"{short_label(text, 60)}: KL %{{x:.4g}} nats<extra></extra>",
                showlegend=False,
            )
        )
        fig.add_annotation(  # above its marker: beside it a long scheme would take the picture's width
            x=0,
            xref="paper",
            xanchor="left",
            y=short_label(text, 60),
            yshift=16,
            text=short_label(text, 60),
            showarrow=False,
        )
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(autorange="reversed", type="category", showticklabels=False)
    return fig
