"""Pictures of the first page: a row of weights and its levels over the error strip; the next tokens of two models."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from quantcore.studies.next_tokens import NextToken, NextTokens
from quantcore.studies.row import RowStudy
from ui.components.palette import GREEN, INK, MUTED, SLATE, VERMILION, token
from ui.figures.base import figure

ROW_HEIGHT, TOKENS_HEIGHT = 500, 330
STRIP = 0.24  # share of the row picture's height that the error strip takes
LONGEST_TOKEN = 13


def row_picture(study: RowStudy, layer: str, name: str) -> go.Figure:
    """Each weight and the level it jumps to, over all levels; below, the error, magnified until a half step fills it.

    name   of the format, such as int4"""
    columns = np.arange(study.first, study.first + len(study.weight), dtype=np.float32)
    weight, restored, error = (_array(tensor) for tensor in (study.weight, study.restored, study.error))
    fig = figure(
        f"Row {study.row} of {layer}: {len(columns)} of its {study.columns:,} weights",
        "input channel",
        "weight",
        ROW_HEIGHT,
        uirevision=f"{layer}/{study.row}/{study.first}",
    )
    for taken, colour, label in (
        (False, token("slate", 0.22), "level no weight here takes"),
        (True, token("green", 0.55), "level taken"),
    ):
        levels = _array(study.levels)[np.isin(_array(study.levels), restored) == taken]
        fig.add_trace(_level_lines(levels, columns, colour, f"{label} ({len(levels)})"))
    fig.add_trace(_sticks(columns, np.zeros_like(weight), weight, token("ink", 0.25), 1.5, "from 0", legend=False))
    fig.add_trace(_sticks(columns, weight, restored, VERMILION, 2.5, "error"))
    fig.add_trace(_dots(columns, weight, restored, INK, "circle", 6, "float weight"))
    fig.add_trace(_dots(columns, restored, weight, GREEN, "diamond", 8, f"{name} weight"))
    fig.add_trace(
        go.Bar(
            x=columns,
            y=error,
            width=0.6,
            marker={"color": VERMILION},
            name="error",
            yaxis="y2",
            showlegend=False,
            hovertemplate=f"input %{{x:.0f}}<br>error ({name} - float) %{{y:.4g}}<extra></extra>",
        )
    )
    _half_step_band(fig, study, columns)
    reach = float(study.weight.abs().max()) or 1.0
    fig.update_layout(
        xaxis={"range": [columns[0] - 1, columns[-1] + 1], "anchor": "y2", "showgrid": False, "zeroline": False},
        yaxis={"domain": [STRIP + 0.06, 1], "range": [-1.4 * reach, 1.12 * reach], "showgrid": False},
        legend={"y": -0.14},
    )
    return fig


def _half_step_band(fig: go.Figure, study: RowStudy, columns: np.ndarray) -> None:
    """The strip's axis, and the band that no error of an integer format leaves: half a step to either side."""
    half = study.step / 2
    reach = max(half, float(study.error.abs().max()))
    ends = np.asarray([columns[0] - 1, columns[-1] + 1], np.float32)
    for side, fill in ((-half, None), (half, "tonexty")):
        fig.add_trace(
            go.Scatter(
                x=ends,
                y=np.full(2, side, np.float32),
                mode="lines",
                line={"color": SLATE, "width": 1, "dash": "dot"},
                fill=fill,
                fillcolor=token("slate", 0.12),
                name="half a step",
                yaxis="y2",
                showlegend=False,
                hovertemplate=f"half a step: {half:.4g}<extra></extra>",
            )
        )
    fig.update_layout(
        yaxis2={
            "domain": [0, STRIP],
            "range": [-1.15 * reach, 1.15 * reach],
            "tickvals": [-half, 0, half],
            "ticktext": [f"-{half:.2g}", "0", f"+{half:.2g}"],
            "showgrid": False,
            "title": {"text": "error"},
            "automargin": True,
        }
    )


def next_token_picture(report: NextTokens, name: str) -> go.Figure:
    """Two lists back to back, float left and quantized right, each by its own ranks; lines join what both list."""
    fig = figure("The next token", height=TOKENS_HEIGHT, bargap=0.3, showlegend=False, uirevision="tokens")
    reach = max(report.likeliest[0].probability, report.likeliest_hat[0].probability_hat)
    left, right = list(report.likeliest), list(report.likeliest_hat)
    fig.add_trace(_bars([one.probability for one in left], left, INK, "x", "float", name))
    fig.add_trace(_bars([one.probability_hat for one in right], right, GREEN, "x2", "float", name))
    ranks = {one.token: place for place, one in enumerate(right)}
    for place, one in enumerate(left):
        if one.token in ranks:
            fig.add_trace(_ribbon(place, ranks[one.token], one, name))
    for names, x, anchor, colour in ((left, 0.0, "middle right", INK), (right, 1.0, "middle left", GREEN)):
        fig.add_trace(
            go.Scatter(
                x=[x] * len(names),
                y=list(range(len(names))),
                text=[_label(one.text) for one in names],
                mode="text",
                textposition=anchor,
                textfont={"size": 15, "color": colour},
                xaxis="x3",
                hoverinfo="skip",
                cliponaxis=False,
            )
        )
    hidden = {"visible": False, "fixedrange": True}
    fig.update_layout(
        xaxis={**hidden, "domain": [0, 0.3], "range": [1.45 * reach, 0]},
        xaxis2={**hidden, "domain": [0.7, 1], "range": [0, 1.45 * reach], "anchor": "y"},
        xaxis3={**hidden, "domain": [0.32, 0.68], "range": [0, 1], "anchor": "y"},
        yaxis={**hidden, "range": [len(left) - 0.4, -1.1]},
    )
    for text, x, anchor, colour in (("float", 0.3, "right", INK), (name, 0.7, "left", GREEN)):
        fig.add_annotation(
            text=f"<b>{text}</b>",
            x=x,
            xref="paper",
            y=-0.8,
            showarrow=False,
            xanchor=anchor,
            font={"color": colour, "size": 15},
        )
    return fig


def _bars(lengths: Sequence[float], ones: Sequence[NextToken], colour: str, axis: str, float_name: str, name: str) -> go.Bar:
    hover = [
        f"{_label(one.text)}<br>{float_name}: {one.probability:.2%}, rank {one.rank:,}"
        f"<br>{name}: {one.probability_hat:.2%}, rank {one.rank_hat:,}"
        for one in ones
    ]
    return go.Bar(
        x=list(lengths),
        y=list(range(len(ones))),
        orientation="h",
        marker={"color": colour},
        text=[f"{length:.1%}" for length in lengths],
        textposition="outside",
        textfont={"color": MUTED, "size": 13},
        cliponaxis=False,
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        xaxis=axis,
    )


def _ribbon(start: int, end: int, one: NextToken, name: str) -> go.Scatter:
    """A smooth line from a token's place in one list to its place in the other; dashed where the place changes."""
    way = np.linspace(0, 1, 24, dtype=np.float32)
    height = start + (end - start) * way * way * (3 - 2 * way)
    return go.Scatter(
        x=0.36 + 0.28 * way,
        y=height,
        mode="lines",
        line={"color": SLATE, "width": 2, "dash": "solid" if start == end else "dot"},
        xaxis="x3",
        hovertemplate=f"{_label(one.text)}: float {one.probability:.2%}, {name} {one.probability_hat:.2%}<extra></extra>",
    )


def _label(text: str) -> str:
    """A token for a picture: short, and with nothing that a browser would take for markup."""
    short = text if len(text) <= LONGEST_TOKEN else f"{text[: LONGEST_TOKEN - 3]}..."
    return html.escape(short, quote=False).replace("var(", "var (")


def _level_lines(levels: np.ndarray, columns: np.ndarray, colour: str, name: str) -> go.Scatter:
    ends = np.asarray([columns[0] - 1, columns[-1] + 1, np.nan], np.float32)
    return go.Scatter(
        x=np.tile(ends, len(levels)),
        y=np.repeat(levels, 3),
        mode="lines",
        line={"color": colour, "width": 1},
        name=name,
        hoverinfo="skip",
    )


def _sticks(
    columns: np.ndarray, start: np.ndarray, end: np.ndarray, colour: str, width: float, name: str, legend: bool = True
) -> go.Scatter:
    gap = np.full_like(columns, np.nan)
    return go.Scatter(
        x=np.stack([columns, columns, gap], 1).ravel(),
        y=np.stack([start, end, gap], 1).ravel(),
        mode="lines",
        line={"color": colour, "width": width},
        name=name,
        hoverinfo="skip",
        showlegend=legend,
    )


def _dots(
    columns: np.ndarray, y: np.ndarray, other: np.ndarray, colour: str, symbol: str, size: int, name: str
) -> go.Scatter:
    return go.Scatter(
        x=columns,
        y=y,
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": size},
        name=name,
        hovertemplate=f"input %{{x:.0f}}<br>{name} %{{y:.4g}}<extra></extra>",
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float32)
