"""Pictures of the page Scheme duel: bytes against KL, every layer's output error, KL along the text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from quantcore.measure.duel import Duel, short_label
from quantcore.measure.frontier import unbeaten
from quantcore.measure.statistics import window_interval
from quantcore.model.layer_names import place_of
from ui.components.palette import AMBER, BLUE, GREEN, PURPLE, SLATE, VERMILION
from ui.figures.base import figure, log_ticks, thin_line
from ui.figures.names import Point, ends, positions, share
from ui.markdown import plotted
from ui.words.digits import shown_kl
from ui.words.duel import LETTERS

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SLATE)
SYMBOLS = ("circle", "x", "square", "diamond", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
HEIGHT = 400
PLOT = (340.0, 250.0)  # pixels of the plot in half a window of 1280
MOST_PEAKS = 3000  # a screen has no more columns


def pareto(duel: Duel) -> go.Figure:
    """Checkpoint size against KL; towards the lower left is better. Bars: the interval of KL over windows."""
    title = "What each byte buys (bars: 95% interval)"
    fig = figure(title, "checkpoint, MB", "KL to float, nats a token, log", HEIGHT)
    fronts = set(front(duel))
    positive = [report.kl for report in duel.reports.values() if report.kl > 0]
    floor = min(positive, default=1e-4) / 3
    xs = {text: report.bytes / 1e6 for text, report in duel.reports.items()}
    ys = {text: max(report.kl, floor) for text, report in duel.reports.items()}
    bars = {text: _bar(duel, text, ys[text]) for text in duel.reports}
    reached = [y for text, (more, less) in bars.items() for y in (ys[text] + more, ys[text] - less)]
    across, up = ends(xs.values(), 0.18), ends(map(math.log10, reached), 0.14)
    ordered = sorted(fronts, key=lambda text: xs[text])
    points = {text: (share(xs[text], across), share(math.log10(ys[text]), up)) for text in duel.reports}
    names, places = _names(points, [points[text] for text in ordered])
    for place, (text, report) in enumerate(duel.reports.items()):
        more, less = bars[text]
        fig.add_trace(
            go.Scatter(
                x=[xs[text]],
                y=[ys[text]],
                error_y={"array": [more], "arrayminus": [less], "thickness": 1.5},
                mode="markers+text",
                text=[names[place]],
                textposition=places[place],
                marker={"color": COLOURS[place], "symbol": SYMBOLS[place], "size": 13},
                name=short_label(text),
                hovertemplate=f"{short_label(text)}: %{{x:.2f}} MB, KL {shown_kl(text, report.kl)}"
                f"{'' if text in fronts else '; another is smaller and no worse'}<extra></extra>",
                showlegend=False,
            )
        )
    fig.add_trace(thin_line([xs[text] for text in ordered], [ys[text] for text in ordered]))
    fig.update_xaxes(range=across)
    fig.update_yaxes(type="log", range=up, **log_ticks([max(kl, floor) for kl in positive]))
    return fig


def _bar(duel: Duel, text: str, y: float) -> tuple[float, float]:
    """How far the interval over windows reaches above a scheme's point, and below it; 0 where there is none."""
    interval, kl = window_interval(duel.scores[text].kl), duel.reports[text].kl
    return (interval.hi - kl, min(kl - interval.lo, 0.9 * y)) if math.isfinite(interval.lo) else (0.0, 0.0)


def _names(points: Mapping[str, Point], line: Sequence[Point]) -> tuple[list[str], list[str]]:
    """A letter and a name for each point, and where they stand; the letter alone, as in the tables, where the name
    would cross another."""
    letters, there = LETTERS[: len(points)], list(points.values())
    whole = [f"{letter} {short_label(text, 24)}" for letter, text in zip(letters, points, strict=True)]
    fit = positions(there, whole, PLOT, line)
    names = [name if place else letter for name, place, letter in zip(whole, fit, letters, strict=True)]
    return names, [place or "middle right" for place in positions(there, names, PLOT, line)]


def front(duel: Duel) -> list[str]:
    """The schemes that no other beats in bytes and KL at once."""
    return unbeaten(duel.reports, lambda text: (duel.reports[text].bytes, duel.reports[text].kl))


def layer_errors(duel: Duel) -> go.Figure:
    """SQNR of every layer's output, on the calibration text's first tokens; higher is better. Bars: from the worst
    window to the best."""
    x_title = "module; in each, the blocks from the first to the last"
    fig = figure("Where each scheme loses: every layer's output", x_title, "SQNR, dB; bars: worst to best text", HEIGHT)
    known = {
        text: [(row, row.output_sqnr_db) for row in rows if row.output_sqnr_db is not None]
        for text, rows in duel.layers.items()
    }
    places, centres = layer_places(list(dict.fromkeys(row.name for rows in known.values() for row, _ in rows)))
    for number, (text, rows) in enumerate(known.items()):
        shift = 0.13 * (number - (len(known) - 1) / 2)
        shown = sorted(((places[row.name], row, sqnr_db) for row, sqnr_db in rows), key=lambda point: point[0])
        parts: list[list[Any]] = [[], [], [], [], []]
        x, y, up, down, names = parts
        for (at, row, sqnr_db), (before, *_) in zip(shown, [*shown[:1], *shown], strict=False):
            if at - before > 1:  # another module: the line is cut
                for part in parts:
                    part.append(None)
            finite = math.isfinite(sqnr_db)
            least, most = row.output_sqnr_windows or (sqnr_db, sqnr_db)
            x.append(at + shift)
            y.append(sqnr_db if finite else None)
            up.append(most - sqnr_db if finite and math.isfinite(most) else 0)
            down.append(sqnr_db - least if finite else 0)
            names.append(row.name)
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                error_y={"array": up, "arrayminus": down, "thickness": 1, "width": 0},
                mode="lines+markers",
                line={"color": COLOURS[number], "width": 1, "dash": DASHES[number]},
                marker={"color": COLOURS[number], "symbol": SYMBOLS[number], "size": 6},
                name=short_label(text),
                text=names,
                hovertemplate=f"{short_label(text)}, %{{text}}: %{{y:.1f}} dB<extra></extra>",
            )
        )
    fig.update_xaxes(
        tickvals=list(centres.values()),
        ticktext=[one.rpartition(".")[2] for one in centres],
        showgrid=False,
        zeroline=False,
    )
    fig.update_layout(showlegend=True)
    return fig


def layer_places(names: Sequence[str]) -> tuple[dict[str, int], dict[str, float]]:
    """Where each layer stands on the axis, module by module with a gap in between, and each module's middle."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(place_of(name)[1], []).append(name)
    places: dict[str, int] = {}
    centres: dict[str, float] = {}
    for module, members in modules.items():
        start = max(places.values(), default=-2) + 2
        places |= {name: start + n for n, name in enumerate(sorted(members, key=lambda name: place_of(name)[0] or 0))}
        centres[module] = start + (len(members) - 1) / 2
    return places, centres


def along_the_text(kl: np.ndarray, texts: Sequence[str], colour: str, at: int, shown: tuple[int, int]) -> go.Figure:
    """KL of every predicted token, in the text's order; `at` is the marked one, `shown` the first and last that the
    page writes out. Of a long text, the largest of each few tokens."""
    few = math.ceil(len(kl) / MOST_PEAKS)
    places = np.array([n + int(kl[n : n + few].argmax()) for n in range(0, len(kl), few)])
    note = f", the largest of each {few} tokens" if few > 1 else ""
    fig = figure(f"KL along the text{note}: click a peak to read it", "token of the text", "KL, nats", 240)
    fig.add_trace(
        go.Scatter(
            x=places.astype(np.float32),
            y=kl[places].astype(np.float32),
            mode="lines",
            line={"color": colour, "width": 1},
            text=[plotted(texts[place]) for place in places],
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
