"""Picture of the greedy answers of a duel: how many are still the float model's, token after token."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.measure.duel import short_label
from quantcore.studies.answers import Answers
from ui.figures.base import figure
from ui.figures.duel import COLOURS, DASHES


def alike(found: Answers) -> go.Figure:
    title = f"Answers that are still float's, word for word; {len(found.prompts)} prompts"
    fig = figure(title, "tokens written", "share of answers, %", 360)
    for place, scheme in enumerate(found.parted):
        fig.add_trace(
            go.Scatter(
                x=list(range(found.count + 1)),
                y=[100 * share for share in found.alike(scheme)],
                mode="lines",
                line={"shape": "hv", "color": COLOURS[place], "dash": DASHES[place], "width": 2.5},
                name=short_label(scheme),
                hovertemplate=f"{short_label(scheme)}: %{{y:.0f}}% after %{{x}} tokens<extra></extra>",
            )
        )
    fig.update_yaxes(range=[0, 103])
    return fig
