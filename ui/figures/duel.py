"""Pictures of the page Scheme duel: bytes against KL, every layer's output error, KL along the text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from quantcore.duel import Duel, short_label
from quantcore.statistics import window_interval
from ui.components.palette import AMBER, BLUE, GREEN, PURPLE, SLATE, VERMILION
from ui.figures.base import figure

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SLATE)
SYMBOLS = ("circle", "x", "square", "diamond", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
HEIGHT = 400


def pareto(duel: Duel) -> go.Figure:
    """Checkpoint size against KL; towards the lower left is better. Bars: the interval of KL over windows."""
    fig = figure("What each byte buys", "checkpoint, MB", "KL to float, nats a token, log", HEIGHT)
    fronts = set(front(duel))
    positive = [report.kl for report in duel.reports.values() if report.kl > 0]
    floor = min(positive, default=1e-4) / 3
    sizes = sorted(duel.reports, key=lambda text: duel.reports[text].bytes)
    sides = {text: "left" if n == len(sizes) - 1 or n % 2 else "right" for n, text in enumerate(sizes)}
    for place, (text, report) in enumerate(duel.reports.items()):
        interval = window_interval(duel.scores[text].kl)
        y = max(report.kl, floor)
        finite = math.isfinite(interval.lo)
        fig.add_trace(
            go.Scatter(
                x=[report.bytes / 1e6],
                y=[y],
                error_y={
                    "array": [interval.hi - report.kl if finite else 0],
                    "arrayminus": [min(report.kl - interval.lo, 0.9 * y) if finite else 0],
                    "thickness": 1.5,
                },
                mode="markers+text",
                text=[short_label(text)],
                textposition=f"middle {sides[text]}",
                marker={"color": COLOURS[place], "symbol": SYMBOLS[place], "size": 13},
                name=short_label(text),
                hovertemplate=f"{short_label(text)}: %{{x:.2f}} MB, KL {report.kl:.4g}"
                f"{'' if text in fronts else '; another is smaller and no worse'}<extra></extra>",
                showlegend=False,
            )
        )
    ordered = sorted(fronts, key=lambda text: duel.reports[text].bytes)
    fig.add_trace(
        go.Scatter(
            x=[duel.reports[text].bytes / 1e6 for text in ordered],
            y=[max(duel.reports[text].kl, floor) for text in ordered],
            mode="lines",
            line={"color": SLATE, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    least, most = (duel.reports[text].bytes / 1e6 for text in (sizes[0], sizes[-1]))
    margin = 0.18 * (most - least) or 1.0
    fig.update_xaxes(range=[least - margin, most + margin])
    fig.update_yaxes(type="log", **log_ticks([max(kl, floor) for kl in positive]))
    return fig


def log_ticks(shown: Sequence[float]) -> dict[str, list[Any]]:
    """Ticks of a logarithmic axis over these values, written out: 1, 2, 5 a decade, else decades alone."""
    lo, hi = math.floor(math.log10(min(shown, default=1))), math.ceil(math.log10(max(shown, default=1)))
    steps = (1, 2, 5) if hi - lo <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(lo - 1, hi + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def front(duel: Duel) -> list[str]:
    """The schemes that no other beats in bytes and KL at once."""
    reports = duel.reports

    def beaten(text: str) -> bool:
        mine = reports[text]
        return any(
            other.bytes <= mine.bytes and other.kl <= mine.kl and (other.bytes, other.kl) != (mine.bytes, mine.kl)
            for other in reports.values()
        )

    return [text for text in reports if not beaten(text)]


def layer_errors(duel: Duel) -> go.Figure:
    """SQNR of every layer's output, on the calibration text's first tokens; higher is better."""
    fig = figure("Where each scheme loses: layer by layer", "layer", "SQNR of the output, dB", HEIGHT, showlegend=True)
    for place, (text, rows) in enumerate(duel.layers.items()):
        measured = [(row.name, row.output_sqnr_db) for row in rows if row.output_sqnr_db is not None]
        fig.add_trace(
            go.Scatter(
                x=[short_name(name) for name, _ in measured],
                y=np.array([value if math.isfinite(value) else np.nan for _, value in measured], np.float32),
                mode="lines+markers",
                line={"color": COLOURS[place], "width": 1.5, "dash": DASHES[place]},
                marker={"color": COLOURS[place], "symbol": SYMBOLS[place], "size": 6},
                name=short_label(text),
                hovertemplate=f"{short_label(text)}, %{{x}}: %{{y:.1f}} dB<extra></extra>",
            )
        )
    fig.update_xaxes(tickangle=-60, nticks=30, title={"standoff": 4})
    fig.update_layout(legend={"y": 1.0, "yanchor": "bottom"}, title={"pad": {"l": 8, "b": 24}})
    return fig


def short_name(name: str) -> str:
    """`model.layers.3.mlp.down_proj` as `3.down_proj`."""
    parts = name.split(".")
    number = next((part for part in parts if part.isdigit()), None)
    return f"{number}.{parts[-1]}" if number else parts[-1]


def along_the_text(kl: np.ndarray, texts: Sequence[str], colour: str, at: int, shown: tuple[int, int]) -> go.Figure:
    """KL of every predicted token, in the text's order; `at` is the marked one, `shown` the first and last that the
    page writes out."""
    fig = figure("KL along the text: click a peak to read it", "token of the text", "KL, nats", 240)
    fig.add_trace(
        go.Scatter(
            x=np.arange(len(kl), dtype=np.float32),
            y=kl.astype(np.float32),
            mode="lines",
            line={"color": colour, "width": 1},
            text=list(texts),
            customdata=np.arange(len(kl)).tolist(),
            hovertemplate="token %{x:.0f} '%{text}': KL %{y:.3g} nats<extra></extra>",
            showlegend=False,
        )
    )
    fig.add_trace(
        go.Scatter(
            x=[at],
            y=[float(kl[at])],
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": "circle-open", "line": {"width": 2.5}},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    fig.add_vrect(x0=shown[0], x1=shown[1], fillcolor=SLATE, opacity=0.18, line_width=0)
    return fig


def colours(schemes: Mapping[str, object] | Sequence[str]) -> dict[str, str]:
    """The colour that each scheme keeps on the whole page."""
    return dict(zip(schemes, COLOURS, strict=False))
