"""Pictures of the page "Which scheme should I ship?": a bar of memory, and memory against speed, the loss in words."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.advice.choice import GB, Advice, Verdict
from quantcore.numbers.digits import digits
from ui.components.palette import AMBER, BLUE, GREEN, PURPLE, SLATE, VERMILION, token
from ui.figures.base import figure, thin_line

PARTS = {"weights": BLUE, "cache": VERMILION, "activations": AMBER, "left": token("slate", 0.35)}
HEIGHT = 430
INSIDE = 320  # pixels of that between the axes' ends
FAR = 4.0  # times the largest candidate: a wall beyond that is told, not drawn
NAMES_BESIDE = 2.1  # times where points and wall end: there is room for names
LABEL_PIXELS = 17


def memory(one: Verdict) -> go.Figure:
    """Where the bytes of one candidate go, GB, against what may be taken."""
    fig = figure("Memory, GB", "", "", 150, barmode="stack", showlegend=True)
    fig.update_layout(legend_traceorder="normal")
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
    for one in sorted(running, key=lambda one: one == found.chosen):  # the advice lies on top
        fig.add_trace(_point(one, found, worst))
    front = sorted((one for one in running if one.frontier), key=lambda one: one.memory.total)
    fig.add_trace(thin_line([one.memory.total / GB for one in front], [one.time.tokens_s for one in front if one.time]))
    wall, most = found.verdicts[0].memory.budget / GB, max((one.memory.total / GB for one in running), default=0.0)
    far, near = 0 < FAR * most < wall, wall < NAMES_BESIDE * most
    words = f"{found.gpu}: {wall:.4g} GB"
    above = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
    if far:
        fig.add_annotation(text=f"{words}, far to the right →", x=1, xref="paper", xanchor="right", **above)
    else:
        fig.add_vline(x=wall, line={"color": VERMILION, "width": 2, "dash": "dash"})
        fig.add_annotation(text=words, x=wall, **above)
    top = 1.08 * max((_fastest(one) for one in running), default=1.0)
    end = max(most, wall) if near else most
    _name(fig, running, top, 1.05 * end)
    fig.update_xaxes(range=[0, max(NAMES_BESIDE * end, 0.0 if far else 1.15 * wall)])
    fig.update_yaxes(range=[0, top])
    return fig


def _fastest(one: Verdict) -> float:
    """Tokens a second at the upper end of the prediction."""
    assert one.time is not None
    assert one.step_band is not None
    return one.time.tokens_s * one.time.step_ms / min(one.step_band)


def _name(fig: go.Figure, running: list[Verdict], top: float, column: float) -> None:
    """Each point's name and loss in a column that begins at so many GB, right of all points and of a wall that would
    cut them; moved up or down where another one's would lie on it."""
    gap = top * LABEL_PIXELS / INSIDE
    speeds = {id(one): one.time.tokens_s for one in running if one.time is not None}
    order = sorted(running, key=lambda one: speeds[id(one)])
    places = list[float]()
    for one in order:
        places.append(max(speeds[id(one)], places[-1] + gap if places else 0.0))
    over = max(0.0, places[-1] - top) if places else 0.0
    for one, place in zip(order, places, strict=True):
        fig.add_annotation(
            x=one.memory.total / GB,
            y=speeds[id(one)],
            axref="x",
            ax=column,
            ayref="y",
            ay=place - over,
            text=f"{one.candidate.name}, {_loss(one)}",
            xanchor="left",
            font={"size": 12},
            arrowhead=0,
            arrowwidth=1,
            arrowcolor=SLATE,
            standoff=6,
        )


def _loss(one: Verdict) -> str:
    return (
        "loss unknown" if one.loss is None else f"KL {digits(one.loss.kl, 2)}{'' if one.loss.own else ' (reference)'}"
    )


def _point(one: Verdict, found: Advice, worst: float) -> go.Scatter:
    assert one.time is not None
    assert one.step_band is not None
    lo, hi = (one.time.tokens_s * one.time.step_ms / ms for ms in reversed(one.step_band))
    advised = found.chosen is not None and one.candidate == found.chosen.candidate
    colour = GREEN if advised else SLATE if one.closed else PURPLE if found.runner_up == one else BLUE
    return go.Scatter(
        x=[one.memory.total / GB],
        y=[one.time.tokens_s],
        error_y={"array": [hi - one.time.tokens_s], "arrayminus": [one.time.tokens_s - lo], "thickness": 1, "width": 3},
        mode="markers",
        marker={
            "color": colour,
            "symbol": "star" if advised else "x" if one.closed else "circle",
            "size": 10 + 16 * ((one.loss.kl / worst) ** 0.5 if one.loss else 0.5),
        },
        name=one.candidate.name,
        customdata=[one.candidate.name],
        hovertemplate=f"{one.candidate.name}: %{{x:.3g}} GB, %{{y:,.4r}} tokens/s, {_loss(one)}<extra></extra>",
        showlegend=False,
    )
