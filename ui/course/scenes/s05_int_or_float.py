"""8 bits: int or float? One keeps the small values, one the large ones."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from quantcore.lab.bench import READ
from quantcore.lab.lab import Lab
from quantcore.numbers.digits import digits
from ui.components.palette import BLUE, MUTED, VERMILION, token
from ui.course.guess import Rows
from ui.course.scene import Reveal, Scene, Shown, Specimen
from ui.course.stage import picture, short

FORMATS = (("int8", BLUE, "circle"), ("fp8_e4m3", VERMILION, "x"))
SMALL, LARGE = "small values", "the giant"
NAMES = ("int8", "fp8")
GUESS = Rows(((SMALL, NAMES), (LARGE, NAMES)))
POINTS, CURVE = 61, 40


def find(lab: Lab) -> Specimen:
    """The layer whose input spans most: that of the giant token, else the model's loudest."""
    giant = lab.giant()
    layer = lab.default_layer() if giant is None else giant.layer
    picked = (
        f"it has the largest token of all {giant.of} layers, {giant.figure:.0f} times the median one"
        if giant is not None
        else "it has the model's loudest channel"
    )
    magnitude = lab.inputs(layer, READ).abs()
    typical, largest = float(magnitude.median()), float(magnitude.max())
    said = (
        f"What enters {short(layer)} ({picked}): a typical |value| is **{typical:.2g}**, the largest "
        f"**{digits(largest)}**. int8 and fp8 both have 256 codes and one scale for all, made so that the "
        "largest value fits."
    )
    return Specimen(said, GUESS, of=(layer, typical, largest))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, typical, largest = found.of
    errors = {fmt: {x: off(lab, layer, fmt, x) for x in (typical, largest / 2, largest)} for fmt, *_ in FORMATS}
    small, large = (
        min(NAMES, key=lambda name: errors["int8" if name == "int8" else "fp8_e4m3"][x]) for x in (typical, largest / 2)
    )
    ints, floats = errors["int8"], errors["fp8_e4m3"]
    why = (
        f"int8's steps are all {largest / 127.5:.2g} wide: a typical value is off by **{ints[typical]:.0%}**, half the "
        f"largest by {ints[largest / 2]:.1%}. fp8's steps grow with the value: **{floats[typical]:.1%}** and "
        f"{floats[largest / 2]:.1%} off."
    )
    uses = {}
    for fmt, *_ in FORMATS:
        grid = lab.fitted_grid(layer, fmt, "inputs")
        uses[fmt], _ = lab.format_use(layer, fmt, grid.scale, grid.zero_point, typical, "inputs")
    twist = (
        f"int8 leaves {uses['int8'].unused} of its 256 codes unused here, and yet the tensor as a whole keeps "
        f"{uses['int8'].sqnr_db:z.1f} dB, {uses['fp8_e4m3'].sqnr_db:.1f} with fp8: SQNR hears the largest values most."
    )
    answer = f"A typical value: **{small}**. Half the largest: **{large}**."
    fig = relative(lab, layer, typical, largest)
    more = "pages/1_Number_formats.py", {"layer": layer, "of": "inputs", "formats": [fmt for fmt, *_ in FORMATS]}
    return Reveal(GUESS.of(small, large), answer, why, (Shown(fig, answer.replace("*", ""), 430),), twist, more=more)


def off(lab: Lab, layer: str, fmt: str, x: float) -> float:
    """How far a value like x is off, over x: the mean over POINTS values within 10% of it."""
    around = tuple(np.linspace(0.9 * x, 1.1 * x, POINTS).tolist())
    return sum(lab.off_by(layer, fmt, around, "inputs")) / POINTS


def relative(lab: Lab, layer: str, typical: float, largest: float) -> go.Figure:
    """How far off a value is, in percent of it, over the values there are; the histogram is behind."""
    fig = picture("|value| that enters the layer, log", "off by, % of the value", 430, showlegend=True)
    values = np.geomspace(max(typical / 30, largest * 1e-6), largest, CURVE)
    for fmt, colour, symbol in FORMATS:
        fig.add_trace(
            go.Scatter(
                x=values,
                y=[100 * off(lab, layer, fmt, float(value)) for value in values],
                mode="lines+markers",
                line={"color": colour, "width": 3, "dash": "solid" if symbol == "circle" else "dash"},
                marker={"symbol": symbol, "size": 7},
                name=fmt,
                hovertemplate=f"{fmt}, values near %{{x:.3g}}: off by %{{y:.2g}}%<extra></extra>",
            )
        )
    for value, name, side in ((typical, "typical", "center"), (largest / 2, "half the largest", "right")):
        fig.add_shape(type="line", x0=value, x1=value, y0=0, y1=1, yref="paper", line={"dash": "dot", "color": MUTED})
        fig.add_annotation(  # on a log axis a shape stands at a value, a text at its logarithm
            x=np.log10(value), y=1, yref="paper", xanchor=side, yanchor="bottom", text=name, showarrow=False
        )
    fig.update_xaxes(type="log", range=[float(np.log10(values[0])), float(np.log10(2 * largest))])
    fig.update_yaxes(type="log", range=[-2, 2.15], ticksuffix="%", dtick=1)
    counts = lab.sizes(layer, "inputs")
    fig.add_trace(_behind(counts.counts, counts.edges))
    fig.update_layout(yaxis2={"overlaying": "y", "side": "right", "visible": False})
    return fig


def _behind(counts: tuple[int, ...], edges: tuple[float, ...]) -> go.Scatter:
    """How many values there are of each size."""
    return go.Scatter(
        x=list(edges),
        y=[*counts, counts[-1]],
        mode="lines",
        line={"width": 0, "shape": "hv"},
        fill="tozeroy",
        fillcolor=token("slate", 0.22),
        yaxis="y2",
        name="how many values",
        hoverinfo="skip",
    )


SCENE = Scene("int_or_float", "8 bits: int or float", "Which keeps the small ones, which the giant?", find, reveal)
