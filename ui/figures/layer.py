"""Pictures of the page Layer lab: A and B on the same axes, A blue, solid, a circle, B vermilion, dashed, a cross."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from quantcore.numbers.histogram import Histogram
from quantcore.studies.layer import LayerStudy, decibels_of
from ui.components.palette import BLUE, SLATE, SURFACE, VERMILION, token
from ui.figures.base import figure, largest_of_runs, log_ticks
from ui.markdown import plotted

Sides = Mapping[str, LayerStudy]


class Named(NamedTuple):
    """A point that bears a name in the picture."""

    side: str
    x: float
    y: float
    name: str


COLOURS = {"A": BLUE, "B": VERMILION}
DASHES = {"A": "solid", "B": "dash"}
SYMBOLS = {"A": "circle", "B": "x"}
PATTERNS: dict[str, dict[str, Any]] = {"A": {}, "B": {"shape": "/", "fgcolor": SURFACE, "solidity": 0.2}}
HISTOGRAM_BINS = 512
MOST_POINTS = 1024
NAMED = 3
HEIGHT = 380


def shares(sides: Sides) -> go.Figure:
    """SQNR of the median token's output with the weights quantized alone, the activations alone, and both: of the whole
    output it would be the loudest token's."""
    y = "SQNR of the median token's output, dB"
    fig = figure("Which part costs the output", "", y, HEIGHT, barmode="group", showlegend=True)
    for side, study in sides.items():
        alone = study.weights_token_error, study.activations_token_error
        values = [*map(decibels_of, alone), study.token_sqnr_db]
        fig.add_trace(
            go.Bar(
                x=["weights alone", "activations alone", "both: the scheme"],
                y=[value if math.isfinite(value) else 0 for value in values],
                text=[f"{value:z.1f}" if math.isfinite(value) else "exact" for value in values],
                textposition="outside",
                cliponaxis=False,
                marker={"color": COLOURS[side], "pattern": {**PATTERNS[side], "fillmode": "overlay"}},
                name=f"{side}: {study.scheme}",
                hovertemplate=f"{side}, %{{x}}: median token %{{text}} dB<extra></extra>",
            )
        )
    if all(study.output.max_error == 0 for study in sides.values()):
        fig.update_yaxes(range=[0, 1], showticklabels=False)
    return fig


def weight_histogram(sides: Sides) -> go.Figure:
    """The weight before, and after each scheme."""
    fig = figure("The weight before and after", "weight", "how many weights, log", HEIGHT, showlegend=True)
    before = next(iter(sides.values())).weight_before
    after = {side: study.weight_after for side, study in sides.items()}
    _lay_over(fig, {"before": before, **after}, "weights")
    fig.update_traces(
        selector={"name": "before"}, line={"width": 0}, fill="tozeroy", fillcolor=token("slate", 0.3), name="before"
    )
    return fig


def error_histogram(sides: Sides) -> go.Figure:
    """W_hat - W on shared edges."""
    fig = figure(
        "The error that each weight takes",
        "error, in units of the weight",
        "how many weights, log",
        HEIGHT,
        showlegend=True,
    )
    wrong = {side: study.weight_error for side, study in sides.items() if study.weight.max_error > 0}
    if wrong:
        _lay_over(fig, wrong, "weights")
    else:
        fig.update_layout(xaxis_showticklabels=False, yaxis_showticklabels=False)
    _say_exact(fig, [side for side in sides if side not in wrong])
    return fig


def channel_error(sides: Sides, ordered: bool) -> go.Figure:
    """Root mean square error of every output channel."""
    fig = figure(
        "Output error, by channel",
        "output channels, worst first" if ordered else "output channel",
        "RMS error, in units of the output, log",
        HEIGHT,
        showlegend=True,
    )
    errors = {side: study.channel_error.numpy() for side, study in sides.items()}
    texts = {
        side: [f"channel {c}, whose output has RMS {size:.3g}" for c, size in enumerate(study.channel_size.tolist())]
        for side, study in sides.items()
    }
    names = [f"channel {c}" for c in range(max(len(error) for error in errors.values()))]
    _error_points(fig, errors, texts, names, "RMS error %{y:.3g}", ordered)
    return fig


def token_error(sides: Sides, texts: Sequence[str], ordered: bool) -> go.Figure:
    """Relative error of the output at every token; `texts` are the tokens' own."""
    fig = figure(
        "Output error, by token",
        "tokens, worst first" if ordered else "token of the text",
        "error, % of the token's output, log",
        HEIGHT,
        showlegend=True,
    )
    errors = {side: 100 * study.token_error.numpy() for side, study in sides.items()}
    names = [f"'{plotted(text)}'" for text in texts]
    hovers = [f"token {t} {name}" for t, name in enumerate(names)]
    _error_points(fig, errors, dict.fromkeys(sides, hovers), names, "%{y:.3g}% of its output", ordered)
    return fig


def _error_points(
    fig: go.Figure,
    errors: Mapping[str, np.ndarray],
    texts: Mapping[str, Sequence[str]],
    names: Sequence[str],
    value: str,
    ordered: bool,
) -> None:
    """Errors of A and B on a log axis: a line from the worst on, or a dot each in their own order; the worst named.

    texts: what the hover says of each, names: what the picture calls it, value: how the hover writes y."""
    named: list[Named] = []
    for side, error in errors.items():
        order = np.argsort(-error, kind="stable") if ordered else np.arange(len(error))
        x = largest_of_runs(error[order], MOST_POINTS)
        shown = order[x]
        note = "" if len(x) == len(error) else f"; the worst of {-(-len(error) // MOST_POINTS)} neighbours is shown"
        fig.add_trace(
            go.Scatter(
                x=x.astype(np.float32),
                y=error[shown].astype(np.float32),
                text=np.array([texts[side][place] for place in shown]),  # a list is checked one by one
                mode="lines" if ordered else "markers",
                line={"color": COLOURS[side], "width": 2, "dash": DASHES[side]},
                marker={"color": COLOURS[side], "symbol": SYMBOLS[side], "size": 5},
                name=side,
                hovertemplate=f"{side}, %{{text}}: {value}{note}<extra></extra>",
            )
        )
        worst = np.argsort(-error[shown], kind="stable")[:NAMED]
        named += [
            Named(side, float(x[place]), float(error[shown[place]]), f" {names[shown[place]]} ") for place in worst
        ]
    _log_axis(fig, np.concatenate(list(errors.values())))
    _name_points(fig, named, len(names))
    _say_exact(fig, [side for side, error in errors.items() if not error.any()])


def _lay_over(fig: go.Figure, histograms: Mapping[str, Histogram], what: str) -> None:
    """Step lines on shared edges, log y, cut to where there are counts; an empty bin lies below the axis."""
    reach = max(one.reach for one in histograms.values())
    shared = {name: one.on_reach(reach).coarsened(HISTOGRAM_BINS) for name, one in histograms.items()}
    edges = next(iter(shared.values())).edges.numpy()
    counts = {name: one.counts.numpy() for name, one in shared.items()}
    filled = np.flatnonzero(sum(counts.values()))
    first, last = filled[0], filled[-1] + 1
    for name, full in counts.items():
        cut = full[first:last]
        fig.add_trace(
            go.Scatter(
                x=edges[first : last + 1],
                y=np.maximum(np.append(cut, cut[-1]), 0.1).astype(np.float32),
                customdata=np.append(cut, cut[-1]).astype(np.float32),
                mode="lines",
                line={
                    "shape": "hv",
                    "color": COLOURS.get(name, SLATE),
                    "width": 2,
                    "dash": DASHES.get(name, "solid"),
                },
                name=name,
                hovertemplate=f"{name}: %{{customdata:.0f}} {what} near %{{x:.4g}}<extra></extra>",
            )
        )
    top = math.log10(max(float(full.max()) for full in counts.values()))
    fig.update_yaxes(type="log", range=[math.log10(0.5), top + 0.15], dtick=1)


def _say_exact(fig: go.Figure, exact: Sequence[str]) -> None:
    """In words what a log axis cannot show: no error at all."""
    if exact:
        text = " and ".join(f"<b style='color:{COLOURS[side]}'>{side}</b>" for side in exact) + ": no error"
        place = {"x": 0.5, "y": 0.97, "xref": "paper", "yref": "paper", "yanchor": "top"}
        fig.add_annotation(text=text, showarrow=False, font={"size": 14}, **place)


def _log_axis(fig: go.Figure, values: np.ndarray) -> None:
    """A log y axis around the values above zero, with room for names; few decades get ticks at 2 and 5 as well."""
    seen = values[values > 0]
    lo, hi = (math.log10(seen.min()), math.log10(seen.max())) if len(seen) else (-1.0, 0.0)
    margin = 0.08 * (hi - lo) + 0.05
    fig.update_yaxes(type="log", range=[lo - margin, hi + margin], **log_ticks([10**lo, 10**hi]))


def _beside(place: float) -> str:
    """Where a name has room: above its point, and away from the picture's ends."""
    return "top right" if place < 0.15 else "top left" if place > 0.85 else "top center"


def _name_points(fig: go.Figure, points: Sequence[Named], width: int) -> None:
    """Write names beside points, in their side's colour: the largest first, and none over another or at zero."""
    seen = sorted((point for point in points if point.y > 0), key=lambda point: -point.y)
    tall = (math.log10(seen[0].y / min(point.y for point in seen)) if seen else 0.0) + 1.0
    kept: list[Named] = []
    for point in seen:
        if all(abs(point.x - k.x) > width / 5 or abs(math.log10(point.y / k.y)) > tall / 14 for k in kept):
            kept.append(point)
    fig.add_trace(
        go.Scatter(
            x=[point.x for point in kept],
            y=[point.y for point in kept],
            text=[point.name for point in kept],
            mode="text",
            textposition=[_beside(point.x / width) for point in kept],
            textfont={"color": [COLOURS[point.side] for point in kept], "size": 12},
            hoverinfo="skip",
            showlegend=False,
        )
    )
