"""Pictures of the page Static or dynamic: ranges step by step, a test text under them, what is clipped, the errors, the
time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from quantcore.numbers.spec import MinMax, MovingAverage, Mse, Percentile
from quantcore.studies.dynamic_cost import DynamicCost
from quantcore.studies.ranges import Clip, RangeStudy, Trail, covered, observer_name
from ui.components.palette import AMBER, BLUE, GREEN, INK, PURPLE, SEQUENTIAL, SLATE, VERMILION
from ui.figures.base import colour_bar, figure
from ui.markdown import plotted

STYLES = {
    MinMax: (BLUE, "solid"),
    MovingAverage: (GREEN, "dash"),
    Percentile: (VERMILION, "dot"),
    Mse: (PURPLE, "dashdot"),
}
LOG_FROM = 20.0  # largest over median magnitude from which a linear axis cannot show both


def steps_picture(study: RangeStudy) -> go.Figure:
    """Each calibration step's own extremes as dots, and the range of every observer as it stood after each step."""
    fig = figure("Calibration: the range each observer would freeze", "calibration step", _value_name(study), 400)
    axis = value_axis(study)
    for trail in study.trails:
        covers = [covered(lo, hi, trail.spec.symmetric) for lo, hi in zip(trail.lo, trail.hi, strict=True)]
        for side in _line_sides(study):
            line = _line(axis, trail, trail.steps, [one[side] for one in covers], "after step %{x}: ", side == 1)
            if trail.steps[-1] > len(trail.steps):  # asked only now and then: show where
                line.update(mode="lines+markers", marker={"size": 7})
            fig.add_trace(line)
    steps = np.arange(1, len(study.step_lo) + 1)
    for values, name in _sides(study, study.step_lo, study.step_hi):
        fig.add_trace(_dots(axis, steps, values, f"{name} of the step itself", "step %{x}", size=8))
    fig.update_xaxes(range=[0, len(steps) + 1])
    return axis.dress(fig)


def tokens_picture(study: RangeStudy, focus: Trail, texts: Sequence[str]) -> go.Figure:
    """What each test token reaches, the frozen ranges as lines; what lies beyond the range in focus is crossed out."""
    fig = figure("Test text: what each token reaches", "token of the test text", _value_name(study), 400)
    axis = value_axis(study)
    lo, hi = covered(*focus.frozen, focus.spec.symmetric)
    clipped = f"clipped by {observer_name(focus.spec.observer)}"
    places = np.arange(len(study.token_lo))
    for values, name in _sides(study, study.token_lo, study.token_hi):
        out = (values < lo) | (values > hi)
        for these, label in ((~out, f"{name} of a token"), (out, clipped)):
            words = [plotted(texts[place]) for place in places[these]]
            dots = _dots(axis, places[these], values[these], label, "token %{x} <b>%{text}</b>", words)
            if these is out:
                colour = STYLES[type(focus.spec.observer)][0]
                dots.update(marker={"symbol": "x", "size": 6, "color": colour}, showlegend=name != "min")
            fig.add_trace(dots)
    for trail in study.trails:
        bounds = covered(*trail.frozen, trail.spec.symmetric)
        for side in _line_sides(study):
            ends, level = [0, len(places) - 1], [bounds[side]] * 2
            fig.add_trace(_line(axis, trail, ends, level, "frozen at ", side == 1, trail == focus))
    fig.update_xaxes(range=[-0.02 * len(places), 1.02 * len(places)])
    return axis.dress(fig)


def clip_map(clips: Sequence[Clip], title: str) -> go.Figure:
    """Kinds of text x observers: share of values clipped, in numbers, and of tokens touched, in numbers and colour."""
    names, texts = list(dict.fromkeys(c.name for c in clips)), list(dict.fromkeys(c.text for c in clips))
    fig = figure(title, "", "text that is read", 380)
    touched = np.array([c.touched for c in clips], np.float32).reshape(len(names), len(texts)).T
    words = [f"{c.clipped * 1e6:,.0f} ppm<br>{c.touched:.1%}" for c in clips]
    fig.add_trace(
        go.Heatmap(
            z=touched * 100,
            x=[name.replace(" ", "<br>", 1) for name in names],
            y=texts,
            text=np.array(words, object).reshape(len(names), len(texts)).T.tolist(),
            texttemplate="%{text}",
            textfont={"size": 13},
            zmin=0,
            zmax=100,
            colorscale=SEQUENTIAL,
            xgap=2,
            ygap=2,
            colorbar={**colour_bar("values clipped; tokens that hold one, also as colour, %"), "y": -0.2},
            hovertemplate="%{x}, on %{y}:<br>values clipped, tokens that hold one:<br>%{text}<extra></extra>",
        )
    )
    fig.update_xaxes(tickangle=0)
    fig.update_yaxes(autorange="reversed")
    return fig


def error_picture(study: RangeStudy) -> go.Figure:
    """SQNR of every way to find the range: of the input, of the output, of the output's median token."""
    fig = figure("What is left of the signal", "SQNR, dB (6.02 dB are one bit)", "", 380)
    rows = study.rows
    measures = (
        ("input_sqnr_db", "layer's input, whole text", SLATE, "circle-open", 10),
        ("output_sqnr_db", "layer's output, whole text", BLUE, "square", 10),
        ("token_sqnr_db", "layer's output, median token", VERMILION, "diamond", 14),
    )
    for field, name, colour, symbol, size in measures:
        values = [getattr(row, field) for row in rows]
        fig.add_trace(
            go.Scatter(
                x=[value if math.isfinite(value) else None for value in values],
                y=[f"{row.way}: {row.name}" for row in rows],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}},
                name=name,
                hovertemplate=f"%{{y}}<br>{name}: %{{x:.2f}} dB<extra></extra>",
            )
        )
    fig.update_yaxes(autorange="reversed")
    return fig


def cost_picture(cost: DynamicCost) -> go.Figure:
    """Time to make the codes, in units of the layer's own float product, for every number of tokens at once."""
    fig = figure(f"Time on {cost.device}", "tokens at once", "time of the layer's float product", 380, barmode="group")
    labels = [str(row.tokens) for row in cost.rows]
    for field, name, colour, pattern in (
        ("static_ms", "codes, static range", BLUE, ""),
        ("tensor_ms", "codes, dynamic per tensor", AMBER, "/"),
        ("token_ms", "codes, dynamic per token", GREEN, "x"),
    ):
        times = [getattr(row, field) for row in cost.rows]
        fig.add_trace(
            go.Bar(
                x=labels,
                y=[time / row.product_ms for time, row in zip(times, cost.rows, strict=True)],
                customdata=times,
                marker={"color": colour, "pattern": {"shape": pattern}},
                name=name,
                hovertemplate=f"{name}, %{{x}} tokens: %{{customdata:.3f}} ms, %{{y:.2f}} products<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=labels,
            y=[1.0] * len(labels),
            customdata=[row.product_ms for row in cost.rows],
            mode="lines+markers",
            line={"color": INK, "dash": "dash", "width": 2},
            name="the float product x W^T itself",
            hovertemplate="float product, %{x} tokens: %{customdata:.3f} ms<extra></extra>",
        )
    )
    fig.update_xaxes(type="category")
    fig.update_yaxes(rangemode="tozero")
    return fig


@dataclass(frozen=True)
class Axis:
    """The value axis of both pictures. unit > 0: drawn as asinh(value / unit), so linear within +-unit and logarithmic
    beyond, with room for both signs; that is needed where one token dwarfs the others. unit 0: linear."""

    unit: float
    low: float
    high: float

    def draw(self, values: np.ndarray) -> np.ndarray:
        return (np.arcsinh(values / self.unit) if self.unit else values).astype(np.float32)

    def dress(self, fig: go.Figure) -> go.Figure:
        bottom, top = self.draw(np.array([self.low, self.high]))
        room = 0.05 * (top - bottom or 1.0)
        fig.update_yaxes(range=[bottom - room, top + room])
        if self.unit:
            ticks = self._ticks()
            fig.update_yaxes(tickvals=self.draw(ticks), ticktext=[f"{tick:g}" for tick in ticks])
        return fig

    def _ticks(self) -> np.ndarray:
        """0 and the powers of ten from the unit on, with their signs, as far as the axis reaches."""
        powers = self.unit * 10.0 ** np.arange(1 + max(0, math.ceil(math.log10(max(self.high, -self.low) / self.unit))))
        ticks = np.concatenate([-powers[::-1], [0.0], powers])
        return ticks[(ticks >= self.low) & (ticks <= self.high)]


def value_axis(study: RangeStudy) -> Axis:
    """One axis for calibration and test, so that a line goes on from the first picture into the second."""
    limits = [bound for trail in study.trails for pair in zip(trail.lo, trail.hi, strict=True) for bound in pair]
    values = torch.cat([study.step_lo, study.step_hi, study.token_lo, study.token_hi, torch.tensor([*limits, 0.0])])
    median, largest = float(study.reach.median()), float(values.abs().max())
    unit = 10.0 ** math.floor(math.log10(median)) if largest > LOG_FROM * median > 0 else 0.0
    if _symmetric(study):
        return Axis(unit, 0.0, largest)
    return Axis(unit, float(values.min()), float(values.max()))


def _symmetric(study: RangeStudy) -> bool:
    return study.trails[0].spec.symmetric


def _value_name(study: RangeStudy) -> str:
    name = "largest |value|" if _symmetric(study) else "value"
    unit = value_axis(study).unit
    return f"{name}, log scale from {unit:g} on" if unit else name


def _sides(study: RangeStudy, lo: Tensor, hi: Tensor) -> list[tuple[np.ndarray, str]]:
    """What the dots show: a symmetric range cares for magnitudes only, an asymmetric one for both ends."""
    if _symmetric(study):
        return [(torch.maximum(-lo, hi).numpy(), "largest |value|")]
    return [(hi.numpy(), "max"), (lo.numpy(), "min")]


def _line_sides(study: RangeStudy) -> tuple[int, ...]:
    return (1,) if _symmetric(study) else (1, 0)


def _dots(
    axis: Axis, x: np.ndarray, y: np.ndarray, name: str, hover: str, text: Sequence[str] | None = None, size: int = 5
) -> go.Scatter:
    return go.Scatter(
        x=x.astype(np.int16),
        y=axis.draw(y),
        customdata=y.astype(np.float32),
        text=text,
        mode="markers",
        marker={"color": SLATE, "size": size},
        name=name,
        hovertemplate=f"{hover}: {name} %{{customdata:.4g}}<extra></extra>",
    )


def _line(
    axis: Axis, trail: Trail, x: Sequence[int], y: Sequence[float], hover: str, in_legend: bool, bold: bool = False
) -> go.Scatter:
    """Min-max is drawn first and wide, so that a range equal to it shows on top of it."""
    colour, dash = STYLES[type(trail.spec.observer)]
    width = 5 if isinstance(trail.spec.observer, MinMax) else 2.5
    name = observer_name(trail.spec.observer)
    return go.Scatter(
        x=list(x),
        y=axis.draw(np.array(y)),
        customdata=np.array(y, np.float32),
        mode="lines",
        line={"color": colour, "dash": dash, "width": max(4, width) if bold else width},
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        hovertemplate=f"{name}, {hover}%{{customdata:.4g}}<extra></extra>",
    )
