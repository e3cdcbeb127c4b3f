"""Pictures of the page "Which scheme should I ship?": a bar of memory, and memory against speed, the loss in words."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.advice.choice import GB, Advice, Verdict
from ui.components.palette import AMBER, BLUE, GREEN, PURPLE, SLATE, VERMILION, token
from ui.figures.base import figure

PARTS = {"weights": BLUE, "cache": VERMILION, "activations": AMBER, "left": token("slate", 0.35)}
HEIGHT = 430


def memory(one: Verdict) -> go.Figure:
    """Where the bytes of one candidate go, GB, against what may be taken."""
    fig = figure("Memory, GB", "", "", 130, barmode="stack", showlegend=True)
    for name, colour in PARTS.items():
        size = getattr(one.memory, name) / GB
        if size > 0:
            fig.add_trace(
                go.Bar(
                    x=[size],
                    y=[""],
                    orientation="h",
                    name=name,
                    marker={"color": colour},
                    hovertemplate=f"{name}: %{{x:.3g}} GB<extra></extra>",
                )
            )
    fig.add_vline(x=one.memory.budget / GB, line={"color": SLATE, "width": 2, "dash": "dash"})
    return fig


def canvas(found: Advice) -> go.Figure:
    """Each candidate that runs: memory to the right, tokens a second upward, the loss in its size and its label; the
    GPU's memory is a wall, the frontier a line."""
    running = [one for one in found.verdicts if one.time is not None]
    fig = figure("Memory, speed, loss: click a point", "memory, GB", "tokens/s, all sequences", HEIGHT)
    worst = max((one.loss.kl for one in running if one.loss), default=0.0) or 1.0
    for one in running:
        fig.add_trace(_point(one, found, worst))
    front = sorted((one for one in running if one.frontier), key=lambda one: one.memory.total)
    fig.add_trace(
        go.Scatter(
            x=[one.memory.total / GB for one in front],
            y=[one.time.tokens_s for one in front if one.time],
            mode="lines",
            line={"color": SLATE, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    wall = found.verdicts[0].memory.budget / GB
    fig.add_vline(
        x=wall,
        line={"color": VERMILION, "width": 2, "dash": "dash"},
        annotation={"text": f"{found.gpu}: {wall:.4g} GB"},
    )
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(rangemode="tozero")
    return fig


def _point(one: Verdict, found: Advice, worst: float) -> go.Scatter:
    assert one.time is not None
    assert one.step_band is not None
    lo, hi = (one.time.tokens_s * one.time.step_ms / ms for ms in reversed(one.step_band))
    kl = "loss unknown" if one.loss is None else f"KL {one.loss.kl:.2g}{'' if one.loss.own else ' (kin)'}"
    advised = found.chosen is not None and one.candidate == found.chosen.candidate
    colour = GREEN if advised else SLATE if one.closed else PURPLE if found.runner_up == one else BLUE
    return go.Scatter(
        x=[one.memory.total / GB],
        y=[one.time.tokens_s],
        error_y={"array": [hi - one.time.tokens_s], "arrayminus": [one.time.tokens_s - lo], "thickness": 1, "width": 3},
        mode="markers+text",
        text=[f"{one.candidate.name}, {kl}"],
        textposition="middle right",
        marker={
            "color": colour,
            "symbol": "star" if advised else "x" if one.closed else "circle",
            "size": 10 + 16 * ((one.loss.kl / worst) ** 0.5 if one.loss else 0.5),
        },
        name=one.candidate.name,
        customdata=[one.candidate.name],
        hovertemplate=f"{one.candidate.name}: %{{x:.3g}} GB, %{{y:.4g}} tokens/s, {kl}<extra></extra>",
        showlegend=False,
    )
