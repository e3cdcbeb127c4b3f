"""Pictures of the page Which layers hurt: a map of layers, the ranking, the plan as a map, plans against uniform."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import plotly.graph_objects as go

from quantcore.measure.duel import short_label
from quantcore.measure.sensitivity import Sensitivity
from quantcore.model.layer_names import place_of
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.scheme.plan import Plan
from ui.components.palette import AMBER, BLUE, GREEN, PURPLE, SEQUENTIAL, SLATE, VERMILION
from ui.figures.base import colour_bar, figure, in_steps, log_ticks
from ui.figures.names import Point, ends, positions, share

STEPS = (VERMILION, AMBER, GREEN, BLUE, PURPLE, SLATE)  # fewest bits first
RANKED = 16
PLOT = (340.0, 230.0)  # pixels of a plot in half a window of 1280
LEGIBLE = 48  # columns, up to which a digit of 13 px fits its cell; beyond, colours and legend say it


def grid_of(layers: Sequence[str]) -> tuple[list[str], list[str], dict[str, tuple[int, int]]]:
    """Rows (modules), columns (blocks) and each layer's cell; layers outside the blocks stand in a last column."""
    places = {layer: place_of(layer) for layer in layers}
    blocks = sorted({block for block, _ in places.values() if block is not None})
    modules = list(dict.fromkeys(module for _, module in places.values()))
    columns = [str(block) for block in blocks] + ["-"] * any(block is None for block, _ in places.values())
    cells = {
        layer: (modules.index(module), len(blocks) if block is None else blocks.index(block))
        for layer, (block, module) in places.items()
    }
    return modules, columns, cells


@lru_cache(64)
def ranked(
    costs: tuple[tuple[str, float], ...], title: str, what: str, layers: tuple[str, ...]
) -> tuple[go.Figure, go.Figure]:
    """The map and the ranking of what layers cost, drawn once: with every move of the budget they are asked for again,
    as they were."""
    by_layer = dict(costs)
    return heat_map(by_layer, title, what, layers), ranking(by_layer, "Ranked; a colour is a module", what)


def heat_map(costs: Mapping[str, float], title: str, what: str, layers: Sequence[str]) -> go.Figure:
    """KL of every layer, colours by its logarithm; a layer without one stays empty."""
    modules, columns, cells = grid_of(layers)
    z, shown = (
        np.full((len(modules), len(columns)), np.nan, np.float32),
        np.full((len(modules), len(columns)), "", dtype=object),
    )
    for layer, cost in costs.items():
        row, column = cells[layer]
        z[row, column] = math.log10(max(cost, 1e-7))
        shown[row, column] = f"{layer}<br>{what} {cost:.3g} nats"
    fig = figure(title, "block", "", 380)
    ticks = log_ticks([10.0 ** float(edge) for edge in (np.nanmin(z), np.nanmax(z))])
    at = [math.log10(value) for value in ticks["tickvals"]]
    bar = {**colour_bar(f"{what}, nats, log"), "tickvals": at, "ticktext": ticks["ticktext"]}
    fig.add_trace(
        go.Heatmap(
            z=z,
            x=columns,
            y=modules,
            text=shown.tolist(),
            hovertemplate="%{text}<extra></extra>",
            colorscale=SEQUENTIAL,
            colorbar=bar,
            xgap=2,
            ygap=2,
        )
    )
    fig.update_yaxes(autorange="reversed", type="category")
    fig.update_xaxes(type="category")
    return fig


def ranking(costs: Mapping[str, float], title: str, what: str) -> go.Figure:
    """The layers that hurt most, first at the top."""
    worst = sorted(costs, key=lambda layer: -costs[layer])[:RANKED]
    modules = list(dict.fromkeys(place_of(layer)[1] for layer in costs))
    places = [modules.index(place_of(layer)[1]) for layer in worst]
    fig = figure(title, f"{what}, nats", "", 100 + 20 * len(worst))
    fig.add_trace(
        go.Bar(
            x=[costs[layer] for layer in worst],
            y=[layer.removeprefix("model.") for layer in worst],
            orientation="h",
            marker={
                "color": [STEPS[place % len(STEPS)] for place in places],
                "pattern": {"shape": ["" if place < len(STEPS) else "/" for place in places]},
            },
            text=[f"{costs[layer]:.3g}" for layer in worst],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.4g} nats<extra></extra>",
        )
    )
    fig.update_xaxes(range=[0, 1.16 * max(costs.values())])
    fig.update_yaxes(autorange="reversed", tickfont={"size": 13}, dtick=1)
    return fig


def plan_map(choice: Mapping[str, str], found: Sensitivity) -> go.Figure:
    """How many bits each layer's codes get: a colour, and the number in the cell (bits with scales, and who shares one,
    in the hover text: two digits would not fit 30 blocks)."""
    modules, columns, cells = grid_of(list(choice))
    steps = sorted({code_bits(text) for text in found.schemes})
    z = np.full((len(modules), len(columns)), np.nan, np.float32)
    hovers = np.full((len(modules), len(columns)), "", dtype=object)
    written = np.full((len(modules), len(columns)), "", dtype=object)
    for layer, (row, column) in cells.items():
        text = choice[layer]
        z[row, column] = steps.index(code_bits(text))
        alone = f"KL alone {found.alone[layer, text]:.3g} nats"
        hovers[row, column] = f"{layer}<br>{short_label(text)}, {found.bits[layer, text]:.3g} bits with scales, {alone}"
        written[row, column] = f"{code_bits(text)}" if len(columns) <= LEGIBLE else ""
    n = len(steps)
    colours = [STEPS[place % len(STEPS)] for place in range(n)]
    fig = figure("The plan: bits of each layer's codes", "block", "", 380)
    fig.add_trace(
        go.Heatmap(
            z=z,
            x=columns,
            y=modules,
            text=written.tolist(),
            customdata=hovers.tolist(),
            texttemplate="%{text}",
            textfont={"size": 13},
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=in_steps(colours),
            zmin=-0.5,
            zmax=n - 0.5,
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    for colour, bits in zip(colours, steps, strict=True):
        marker = {"color": colour, "symbol": "square", "size": 12}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=f"{bits} bits"))
    fig.update_yaxes(autorange="reversed", type="category")
    fig.update_xaxes(type="category")
    fig.update_layout(showlegend=True)
    return fig


def code_bits(text: str) -> int:
    """Of one weight's code, its scale not counted: 16 for one that stays float."""
    weights = Plan.parse(text).default.weights
    return FLOAT_BITS if weights is None else weights.fmt.bits


def budgets(
    uniform: Mapping[str, tuple[float, float]],
    predicted: Sequence[tuple[float, float]],
    elsewhere: Mapping[str, tuple[float, float]],
    how: str = "measured",
    price: str = "bits per weight, scales counted",
    unit: str = "bits",
) -> go.Figure:
    """A price against KL: uniform schemes (`how`: measured, estimated) and the plans that the solver finds
    (predicted), on the text that they were chosen on; and, by name, what was measured on another text."""
    fig = figure("Plan against one scheme for all", price, "KL, nats, log", 380)
    names = [short_label(text) for text in uniform]
    places, across, up = _places(list(uniform.values()), names, predicted, list(elsewhere.values()))
    fig.add_trace(
        go.Scatter(
            x=[bits for bits, _ in predicted],
            y=[kl for _, kl in predicted],
            mode="lines",
            line={"color": BLUE, "width": 2, "dash": "dot"},
            name="plans, predicted",
            hovertemplate=f"plan at %{{x:.3g}} {unit}: %{{y:.4g}} nats predicted<extra></extra>",
        )
    )
    fig.add_trace(
        go.Scatter(
            x=[bits for bits, _ in uniform.values()],
            y=[kl for _, kl in uniform.values()],
            mode="markers+text",
            customdata=names,
            text=[name if place else "" for name, place in zip(names, places, strict=True)],
            textposition=[place or "middle right" for place in places],
            marker={"color": VERMILION, "symbol": "x", "size": 11},
            name=f"one scheme for all, {how}",
            hovertemplate=f"%{{customdata}}: %{{y:.4g}} nats at %{{x:.3g}} {unit}<extra></extra>",
        )
    )
    for (name, (bits, kl)), colour, symbol in zip(
        elsewhere.items(), (BLUE, VERMILION), ("circle", "circle-x"), strict=False
    ):
        fig.add_trace(
            go.Scatter(
                x=[bits],
                y=[kl],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 13},
                name=f"{name}, another text",
                hovertemplate=f"{name}, on another text: %{{y:.3g}} nats at %{{x:.3g}} {unit}<extra></extra>",
            )
        )
    fig.update_xaxes(range=across)
    fig.update_yaxes(type="log", range=up, **log_ticks([kl for _, kl in (*predicted, *uniform.values()) if kl > 0]))
    fig.update_layout(showlegend=True)
    return fig


def _places(
    uniform: Sequence[Point], names: Sequence[str], trail: Sequence[Point], elsewhere: Sequence[Point]
) -> tuple[list[str | None], Point, Point]:
    """Where the names of the uniform schemes stand beside the trail and all points; the ends of both axes."""
    least = min((kl for _, kl in (*uniform, *trail, *elsewhere) if kl > 0), default=1e-6)
    marked, line = (
        [(bits, math.log10(max(kl, least))) for bits, kl in some] for some in ((*uniform, *elsewhere), trail)
    )
    across, up = (ends((point[axis] for point in (*marked, *line)), 0.1) for axis in (0, 1))
    points, corners = ([(share(x, across), share(y, up)) for x, y in some] for some in (marked, line))
    return positions(points, [*names, *[""] * len(elsewhere)], PLOT, corners)[: len(names)], across, up
