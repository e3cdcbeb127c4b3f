"""A layer behind rounded layers: the loss along its columns, Qronos' correction as a step of its own, and in the end.

One colour and one dash stand for one method, RTN's and GPTQ's as in `figures.gptq`.
"""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.studies.drift import AS_IT_IS, BY_GPTQ, BY_QRONOS, CORRECTED, ROUNDED, DriftStudy
from ui.components.palette import AMBER, BLUE, VERMILION
from ui.figures.base import figure
from ui.figures.gptq import name_ends
from ui.words.gptq import percent

LINES = {ROUNDED: (VERMILION, "dash"), BY_GPTQ: (BLUE, "solid"), BY_QRONOS: (AMBER, "dashdot")}
FIRST_STEP = 8.0  # how far left of the first column the correction begins, in % of the columns


def courses(found: DriftStudy) -> go.Figure:
    """The loss of RTN, GPTQ and Qronos along the columns; Qronos' correction is a step before the first column."""
    title = "Behind rounded layers: the loss as the columns go by"
    fig = figure(title, "columns visited, %", "loss, % of the output", 420)
    x = [-FIRST_STEP, *(100 * step / found.steps[-1] for step in found.steps)]
    as_it_is = found.learned[AS_IT_IS]
    for name, losses in sorted(found.courses.items(), key=lambda one: one[1][-1]):
        colour, dash = LINES[name]
        y = [100 * one for one in (as_it_is, *losses)]
        hover = f"{name}, after %{{x:.1f}}% of the columns: loss %{{y:.3g}}% of the output<extra></extra>"
        style = {"color": colour, "dash": dash, "width": 2.5}
        fig.add_trace(go.Scatter(x=x, y=y, mode="lines", line=style, name=name, hovertemplate=hover))
    top = 100 * max(max(losses) for losses in found.courses.values())
    name_ends(fig, [(losses[-1], LINES[name][0]) for name, losses in found.courses.items()], top)
    correction = [(-FIRST_STEP, as_it_is, "float weight"), (0, found.learned[CORRECTED], "W to W'")]
    fig.add_trace(
        go.Scatter(
            x=[place for place, _, _ in correction],
            y=[100 * one for _, one, _ in correction],
            text=[text for _, _, text in correction],
            mode="markers+text",
            textposition=["top right", "bottom right"],
            marker={"color": LINES[BY_QRONOS][0], "size": 9},
            name="Qronos' first correction",
            hovertemplate="%{text}: loss %{y:.3g}% of the output<extra></extra>",
        )
    )
    fig.update_xaxes(range=[-FIRST_STEP - 3, 115], tickvals=[0, 20, 40, 60, 80, 100], zeroline=False)
    fig.update_layout(showlegend=True)
    return fig


def ends(found: DriftStudy) -> go.Figure:
    """What is lost of the float layer's output behind rounded layers, by weight: bars for both texts."""
    fig = figure("Behind rounded layers: what is lost of the output", "", "loss, % of the float layer's output", 420)
    for name, losses, colour in (("learned from", found.learned, BLUE), ("another text", found.read, VERMILION)):
        fig.add_trace(
            go.Bar(
                x=list(losses),
                y=[100 * one for one in losses.values()],
                name=name,
                marker={"color": colour},
                text=[percent(one) for one in losses.values()],
                hovertemplate=f"%{{x}}, {name}: %{{text}}<extra></extra>",
            )
        )
    return fig
