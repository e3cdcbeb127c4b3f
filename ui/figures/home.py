"""Pictures of the first page: a row of weights and its levels over the error strip; the next tokens of two models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from quantcore.studies.next_tokens import NextToken, NextTokens
from quantcore.studies.row import RowStudy
from ui.components.palette import GREEN, INK, MUTED, SLATE, VERMILION, token
from ui.figures.base import figure
from ui.markdown import plotted

ROW_HEIGHT, TOKENS_HEIGHT = 430, 330
LOWEST, HIGHEST = -1.4, 1.1  # of the largest weight: int2 has a level at -4/3
WORST = 0.38  # of the largest weight: a little more than half a step of 2 bits, 1/3
GAP = 0.05  # between weights and errors
STRIP = (1 - GAP) * 2 * WORST / (2 * WORST + HIGHEST - LOWEST)  # so that both have one scale
LONGEST_TOKEN = 20


def row_picture(study: RowStudy, layer: str, name: str) -> go.Figure:
    """Each weight and the level it jumps to, over all levels; below, the error on the same scale.

    name   of the format, such as int4"""
    columns = np.arange(study.first, study.first + len(study.weight), dtype=np.float32)
    weight, restored, levels = _array(study.weight), _array(study.restored), _array(study.levels)
    fig = figure(
        f"Row {study.row}: {len(columns)} of its {study.columns:,} weights",
        "input channel",
        "weight",
        ROW_HEIGHT,
        uirevision=f"{layer}/{study.row}/{study.first}",
    )
    taken = np.isin(levels, restored)
    faint = token("slate", max(0.12, 0.4 - 0.01 * len(levels)))  # 256 lines become a band
    fig.add_trace(_level_lines(levels[~taken], columns, faint, f"level, not taken by these ({(~taken).sum()})"))
    fig.add_trace(_level_lines(levels[taken], columns, token("green", 0.6), f"level, taken by these ({taken.sum()})"))
    fig.add_trace(_jumps(columns, weight, restored))
    fig.add_trace(_points(columns, restored, f"{name} weight", {"color": GREEN, "symbol": "diamond", "size": 7}))
    ring = {"color": INK, "symbol": "circle-open", "size": 9, "line": {"width": 1.5}}
    fig.add_trace(_points(columns, weight, "float weight", ring))
    largest = float(study.weight.abs().max()) or 1.0
    fig.update_layout(
        xaxis={"range": [columns[0] - 1, columns[-1] + 1], "anchor": "y2", "showgrid": False, "zeroline": False},
        yaxis={"domain": [STRIP + GAP, 1], "range": [LOWEST * largest, HIGHEST * largest], "showgrid": False},
    )
    _add_error_strip(fig, study, columns, WORST * largest)
    return fig


def _add_error_strip(fig: go.Figure, study: RowStudy, columns: np.ndarray, reach: float) -> None:
    """Bars of w_hat - w on an axis to +-reach that no width moves, and the band of half a step to either side."""
    half = study.step / 2
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
                yaxis="y2",
                showlegend=False,
                hovertemplate=f"half a step: {half:.4g}<extra></extra>",
            )
        )
    fig.add_trace(
        go.Bar(
            x=columns,
            y=_array(study.error),
            width=0.6,
            marker={"color": VERMILION},
            yaxis="y2",
            showlegend=False,
            hovertemplate="input %{x:.0f}<br>error %{y:.4g}<extra></extra>",
        )
    )
    fig.update_layout(
        yaxis2={
            "domain": [0, STRIP],
            "range": [-reach, reach],
            "nticks": 3,
            "showgrid": False,
            "title": {"text": "error"},
            "automargin": True,
        }
    )
    fig.add_annotation(
        text="the error, on the scale of the weights; dotted: half a step",
        x=1,
        xref="paper",
        xanchor="right",
        y=STRIP,
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        font={"color": VERMILION, "size": 13},
    )


def next_token_picture(report: NextTokens, name: str) -> go.Figure:
    """Two lists back to back, float left and quantized right, each by its own ranks; lines join what both list."""
    fig = figure("The likeliest next tokens", height=TOKENS_HEIGHT, showlegend=False, uirevision="tokens")
    left, right = report.likeliest, report.likeliest_hat
    reach = 1.3 * max(left[0].probability, right[0].probability_hat)
    _add_list(fig, "float", left, [one.probability for one in left], INK, "x", 0.43, "right", name)
    _add_list(fig, name, right, [one.probability_hat for one in right], GREEN, "x2", 0.57, "left", name)
    places = {one.token: place for place, one in enumerate(right)}
    for place, one in enumerate(left):
        if one.token in places:
            fig.add_trace(_ribbon(place, places[one.token], _hover(one, name)))
    hidden = {"visible": False, "fixedrange": True}
    fig.update_layout(
        xaxis={**hidden, "domain": [0, 0.43], "range": [reach, 0]},
        xaxis2={**hidden, "domain": [0.57, 1], "range": [0, reach], "anchor": "y"},
        xaxis3={**hidden, "domain": [0.43, 0.57], "range": [0, 1], "anchor": "y"},
        yaxis={**hidden, "range": [len(left) - 0.5, -1.1]},
    )
    return fig


def _add_list(
    fig: go.Figure,
    title: str,
    ones: Sequence[NextToken],
    lengths: Sequence[float],
    colour: str,
    axis: str,
    edge: float,
    side: str,
    name: str,
) -> None:
    """One model's tokens: a bar of its probability, the token's text above it, the list's title on top."""
    fig.add_trace(
        go.Bar(
            x=list(lengths),
            y=list(range(len(ones))),
            width=0.36,
            orientation="h",
            marker={"color": colour},
            text=[f"{length:.1%}" for length in lengths],
            textposition="outside",
            textfont={"color": MUTED, "size": 13},
            cliponaxis=False,
            hovertext=[_hover(one, name) for one in ones],
            hovertemplate="%{hovertext}<extra></extra>",
            xaxis=axis,
        )
    )
    heights = [-0.9, *(place - 0.36 for place in range(len(ones)))]
    texts = [f"<b>{title}</b>", *(_label(one.text) for one in ones)]
    for height, text in zip(heights, texts, strict=True):
        fig.add_annotation(
            text=text,
            x=edge,
            xref="paper",
            y=height,
            xanchor=side,
            showarrow=False,
            font={"color": colour, "size": 15},
        )


def _ribbon(start: int, end: int, hover: str) -> go.Scatter:
    """A smooth line from a token's place in one list to its place in the other; dotted where the place changes."""
    way = np.linspace(0, 1, 24, dtype=np.float32)
    return go.Scatter(
        x=0.06 + 0.88 * way,
        y=start + (end - start) * way * way * (3 - 2 * way),
        mode="lines",
        line={"color": SLATE, "width": 2, "dash": "solid" if start == end else "dot"},
        xaxis="x3",
        hovertemplate=f"{hover}<extra></extra>",
    )


def _hover(one: NextToken, name: str) -> str:
    return (
        f"{_label(one.text)}<br>float: {one.probability:.2%}, rank {one.rank:,}"
        f"<br>{name}: {one.probability_hat:.2%}, rank {one.rank_hat:,}"
    )


def _label(text: str) -> str:
    """A token for a picture: short, and with nothing that a browser would take for markup."""
    short = text if len(text) <= LONGEST_TOKEN else f"{text[: LONGEST_TOKEN - 3]}..."
    return plotted(short)


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


def _jumps(columns: np.ndarray, start: np.ndarray, end: np.ndarray) -> go.Scatter:
    """From each weight to its level: the error, at its true size."""
    gap = np.full_like(columns, np.nan)
    return go.Scatter(
        x=np.stack([columns, columns, gap], 1).ravel(),
        y=np.stack([start, end, gap], 1).ravel(),
        mode="lines",
        line={"color": VERMILION, "width": 3},
        name="error",
        hoverinfo="skip",
    )


def _points(columns: np.ndarray, y: np.ndarray, name: str, marker: dict[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=columns,
        y=y,
        mode="markers",
        marker=marker,
        name=name,
        hovertemplate=f"input %{{x:.0f}}<br>{name} %{{y:.4g}}<extra></extra>",
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float32)
