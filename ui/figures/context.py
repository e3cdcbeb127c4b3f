"""Pictures of a coded KV cache: what is lost along the context, what is recalled, and where a GPU is full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from quantcore.studies.context_lens import FLOAT, ContextLens
from quantcore.studies.retrieval import Retrieval
from ui.components.palette import INK, SLATE, token
from ui.figures.base import figure, log_ticks
from ui.figures.duel import COLOURS, DASHES

BELOW = 5.0  # the log axis begins at the least mean over this
NAMES = ("blue", "vermilion", "green", "purple", "amber", "slate")  # as COLOURS, for the bands


def along(found: ContextLens) -> go.Figure:
    """Mean KL in each stretch of positions, with its interval over windows where there are enough of them; on the log
    axis an interval that holds 0 is drawn down to the axis."""
    rows = {name: found.along(kl) for name, kl in found.kl.items()}
    bands = {name: means for name, means in rows.items() if all(math.isfinite(one.lo) for one in means)}
    floor = min((one.value for means in rows.values() for one in means if one.value > 0), default=1.0) / BELOW
    ends = [one.hi if name in bands else one.value for name, means in rows.items() for one in means]
    top = max(10 * floor, *ends)
    below = any(one.lo < floor for means in bands.values() for one in means)
    said = f" (95% bands{'; some go below the axis' if below else ''})" if bands else ""
    fig = figure(f"KL along the context{said}", "position in the window", "KL, nats a token, log", 380)
    for place, (name, means) in enumerate(rows.items()):
        if name in bands:
            edge = [*(one.hi for one in means), *(one.lo for one in reversed(means))]
            fig.add_trace(
                go.Scatter(
                    x=[*found.middles, *found.middles[::-1]],
                    y=[max(floor, one) for one in edge],
                    fill="toself",
                    fillcolor=token(NAMES[place], 0.15),
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        values = [one.value or None for one in means]
        fig.add_trace(_line(place, name, found.middles, values, "%{y:.3g} nats at %{x:.0f}"))
    fig.update_yaxes(type="log", range=[math.log10(floor), math.log10(top) + 0.05], **log_ticks([floor, top]))
    return fig


def flips(found: ContextLens) -> go.Figure:
    fig = figure("Next tokens that change", "position in the window", "share, %", 300)
    for place, (name, flipped) in enumerate(found.flips.items()):
        values = [100 * one.value for one in found.along(flipped)]
        fig.add_trace(_line(place, name, found.middles, values, "%{y:.1f}% at %{x:.0f}"))
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


def facts(found: Retrieval) -> go.Figure:
    """log p of the right number by how far back its fact stands; dotted: where the facts say other numbers."""
    fig = figure("Log likelihood of the right number", "tokens between fact and question", "nats an answer", 320)
    back = found.back.double().mean(0).tolist()
    for place, (name, said) in enumerate(found.said.items()):
        means, colour = said.double().mean(0).tolist(), SLATE if name == FLOAT else None
        line = _line(place - 1, name, back, means, "%{y:.2f} nats, %{x:.0f} tokens back", colour)
        fig.add_trace(line.update(mode="lines+markers"))
    misled = _line(0, "facts that say others", back, found.misled.double().mean(0).tolist(), "%{y:.2f} nats", SLATE)
    fig.add_trace(misled.update(line={"color": SLATE, "dash": "dot", "width": 1.5}))
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
