"""Pictures of a coded KV cache: what is lost along the context, what is recalled, and where a GPU is full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from quantcore.studies.context_lens import FLOAT, ContextLens
from ui.components.palette import INK, SLATE, token
from ui.figures.base import figure
from ui.figures.duel import COLOURS, DASHES, log_ticks

NAMES = ("blue", "vermilion", "green", "purple", "amber", "slate")  # as COLOURS, for the bands


def along(found: ContextLens) -> go.Figure:
    """Mean KL in each stretch of positions, with its interval over windows where there are enough of them."""
    fig = figure(
        "KL along the context (bands: 95% over windows)", "position in the window", "KL, nats a token, log", 380
    )
    middles = [(lo + hi) / 2 for lo, hi in zip(found.edges, found.edges[1:], strict=False)]
    for place, (name, kl) in enumerate(found.kl.items()):
        means = found.along(kl)
        if all(math.isfinite(one.lo) and one.lo > 0 for one in means):
            fig.add_trace(
                go.Scatter(
                    x=[*middles, *middles[::-1]],
                    y=[*(one.hi for one in means), *(one.lo for one in means[::-1])],
                    fill="toself",
                    fillcolor=token(NAMES[place], 0.15),
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        fig.add_trace(_line(place, name, middles, [one.value or None for one in means], "%{y:.3g} nats at %{x:.0f}"))
    fig.update_yaxes(
        type="log", **log_ticks([one.value for kl in found.kl.values() for one in found.along(kl) if one.value > 0])
    )
    return fig


def flips(found: ContextLens) -> go.Figure:
    fig = figure("Next tokens that change", "position in the window", "share, %", 300)
    middles = [(lo + hi) / 2 for lo, hi in zip(found.edges, found.edges[1:], strict=False)]
    for place, (name, flipped) in enumerate(found.flips.items()):
        values = [100 * one.value for one in found.along(flipped)]
        fig.add_trace(_line(place, name, middles, values, "%{y:.1f}% at %{x:.0f}"))
    fig.update_yaxes(rangemode="tozero")
    return fig


def recall(found: ContextLens) -> go.Figure:
    """How much likelier the first tokens are the second time, by cache."""
    fig = figure("The window's first tokens, a second time at its end", "", "gain, nats a token", 300)
    for place, name in enumerate(found.said):
        each = found.recall(name)
        finite = math.isfinite(each.lo)
        fig.add_trace(
            go.Bar(
                x=[name],
                y=[each.value],
                error_y={
                    "array": [each.hi - each.value if finite else 0],
                    "arrayminus": [each.value - each.lo if finite else 0],
                    "thickness": 1.5,
                    "color": INK,  # a bar's own is #444 in the dark too
                },
                marker={"color": SLATE if name == FLOAT else COLOURS[place - 1]},
                width=0.5,
                hovertemplate=f"{name}: %{{y:.3f}} nats<extra></extra>",
                showlegend=False,
            )
        )
    return fig


def growth(
    contexts: Sequence[int], totals: Mapping[str, Sequence[int]], weights: int, gpu: str, wall_gb: float | None
) -> go.Figure:
    """Bytes of weights and caches against the context; the GPU's memory is a wall."""
    fig = figure("Weights and caches, as the context grows", "context, tokens, log", "GB, log", 380)
    for place, (name, values) in enumerate(totals.items()):
        shown = [value / 1e9 for value in values]
        colour = SLATE if name == FLOAT else None
        fig.add_trace(_line(place - 1, name, list(contexts), shown, "%{y:.3g} GB at %{x:,}", colour))
    # Words stand where no line runs: those of the weights at the right, where all caches have left them below.
    rest = [""] * (len(contexts) - 1)
    walls = [([*rest, "weights alone"], "top left", weights / 1e9, {"color": SLATE, "dash": "dot", "width": 1})]
    if wall_gb is not None:
        walls.append(([f"{gpu} is full", *rest], "top right", wall_gb, {"color": "var(--ink)", "width": 2}))
    for text, side, height, line in walls:
        fig.add_trace(
            go.Scatter(
                x=contexts, y=[height] * len(contexts), text=text, mode="lines+text", line=line,
                textposition=side, hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
    fig.update_xaxes(type="log", tickvals=list(contexts), ticktext=[f"{one // 1024}k" for one in contexts])
    shown = [value / 1e9 for values in totals.values() for value in values]
    fig.update_yaxes(type="log", **log_ticks([*shown, *(height for _, _, height, _ in walls)]))
    return fig


def _line(
    place: int, name: str, x: Sequence[float], y: Sequence[float | None], hover: str, colour: str | None = None
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour or COLOURS[place], "dash": DASHES[max(0, place)], "width": 2.5},
        name=name,
        hovertemplate=f"{name}: {hover}<extra></extra>",
    )
