"""Pictures of the page GPTQ step by step: the order, the loss along it, its cost, the map, the toy of two weights.

One colour and one dash stand for one method: RTN vermilion, dashed; GPTQ blue, solid; order weight green; group purple.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from quantcore.studies.gptq_cost import OrderCosts, Spread
from quantcore.studies.gptq_map import OrderMap
from quantcore.studies.gptq_order import METHODS, OrderStudy
from quantcore.studies.gptq_toy import WAYS, Toy
from ui.components.palette import AMBER, BLUE, GREEN, INK, PURPLE, SEQUENTIAL, SERIES, SLATE, VERMILION, token
from ui.figures.base import colour_bar, figure, in_steps, largest_of_runs
from ui.words.gptq import percent

COLOURS = dict(zip(METHODS, (VERMILION, BLUE, GREEN, PURPLE), strict=True))
DASHES = dict(zip(METHODS, ("dash", "solid", "longdashdot", "dot"), strict=True))
TOY_MARKS = {
    "RTN": (VERMILION, "x", 13),
    "GPTQ, 1 first": (BLUE, "circle", 14),
    "GPTQ, 2 first": (PURPLE, "square", 12),
    "best": (AMBER, "star-open", 22),
}
MOST_POINTS = 1024
NAMED = 3
STRIP = 1024  # columns that the strip of groups shows
TOY_REACH = 2.0


def diagonal(study: OrderStudy, ordered: bool) -> go.Figure:
    """diag(H) over the number of tokens, the outlier channels marked: as the columns come, or largest first."""
    order = study.course("GPTQ, order weight" if ordered else "GPTQ").order
    values = (study.diagonal[order] / study.tokens).numpy()
    where = "sorted: the order in which GPTQ visits" if ordered else "as the columns come"
    fig = figure(f"diag(H), {where}", "place in the order" if ordered else "input column", "mean square, log", 340)
    places = largest_of_runs(values, MOST_POINTS)
    fig.add_trace(
        go.Scatter(
            x=places.astype(np.float32),
            y=np.maximum(values[places], 1e-12).astype(np.float32),
            customdata=order[torch.from_numpy(places)].to(torch.int32).numpy(),
            mode="lines",
            line={"color": SLATE, "width": 1.5, "shape": "hvh"},
            name="all columns",
            hovertemplate="column %{customdata}: mean square %{y:.3g}<extra></extra>",
        )
    )
    at = {int(column): place for place, column in enumerate(order.tolist())}
    fig.add_trace(
        go.Scatter(
            x=[at[c] for c in study.loud],
            y=[max(float(values[at[c]]), 1e-12) for c in study.loud],
            customdata=[f"channel {c}, place {at[c]}" for c in study.loud],
            mode="markers",
            marker={"color": VERMILION, "symbol": "x", "size": 9},
            name="outlier channels",
            cliponaxis=False,
            hovertemplate="%{customdata}: mean square %{y:.3g}<extra></extra>",
        )
    )
    named, near = study.loud[:NAMED], max(1, len(values) // 25)
    fig.add_trace(
        go.Scatter(  # above what stands near it
            x=[at[c] for c in named],
            y=[float(values[max(0, at[c] - near) : at[c] + near].max()) for c in named],
            text=[str(c) for c in named],
            mode="text",
            textposition="top center",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        )
    )
    lo, hi = np.log10(max(values[values > 0].min(), values.max() * 1e-7)), np.log10(values.max())
    fig.update_yaxes(type="log", range=[lo - 0.1, hi + 0.15 * (hi - lo) + 0.1], dtick=1)
    fig.update_layout(showlegend=True)
    return fig


def courses(study: OrderStudy) -> go.Figure:
    """Each method's loss along its own order, and where it meets the outlier channels."""
    fig = figure(
        "The loss as the columns go by", "columns visited, %, in each method's order", "loss, % of the output", 420
    )
    for course in study.courses:
        x = 100 * np.array(course.steps) / study.shape[1]
        y = 100 * np.array(course.losses) / study.power
        style = {"color": COLOURS[course.method], "dash": DASHES[course.method], "width": 2.5}
        hover = f"{course.method}, after %{{x:.1f}}% of the columns: loss %{{y:.3g}}% of the output<extra></extra>"
        fig.add_trace(go.Scatter(x=x, y=y, mode="lines", line=style, name=course.method, hovertemplate=hover))
        met = [course.steps.index(step) for step in course.loud_steps]
        fig.add_trace(
            go.Scatter(
                x=x[met],
                y=y[met],
                mode="markers",
                marker={"color": COLOURS[course.method], "symbol": "x", "size": 8},
                text=[f"channel {c}" for c in study.loud],
                hovertemplate=f"{course.method} has visited outlier %{{text}}: loss %{{y:.3g}}%<extra></extra>",
                name="an outlier channel is visited",
                legendgroup="met",
                showlegend=course is study.courses[0] and bool(study.loud),
            )
        )
    top = max(max(course.losses) for course in study.courses) / study.power * 100
    name_ends(fig, [(course.loss / study.power, COLOURS[course.method]) for course in study.courses], top)
    fig.update_xaxes(range=[0, 115], tickvals=[0, 20, 40, 60, 80, 100])
    fig.update_layout(showlegend=True)
    return fig


def name_ends(fig: go.Figure, ends: Sequence[tuple[float, str]], top: float) -> None:
    """Write where lines end, a share and the line's colour each, right of the 100% that the columns end at; none over
    another. top: of all lines, %."""
    height = -1.0
    for share, colour in sorted(ends, key=lambda one: one[0]):
        height = max(100 * share, height + 0.052 * top)
        words = {"text": f"<b>{percent(share)}</b>", "font": {"color": colour, "size": 13}}
        fig.add_annotation(x=102.5, y=height, showarrow=False, xanchor="left", **words)
    fig.update_yaxes(range=[0, max(1.06 * top, height + 0.03 * top)])


def groups(study: OrderStudy) -> go.Figure:
    """Which group each column's scale comes from: side by side, or scattered by g_idx."""
    ways = ("GPTQ, order group", "GPTQ, order weight")
    width = min(study.shape[1], STRIP)
    rows = torch.stack([study.course(way).group[:width] for way in ways])
    names = list(SERIES)
    note = "" if width == study.shape[1] else f", the first {width} of {study.shape[1]}"
    fig = figure("Whose scale? A colour is a group", f"input column{note}", "", 240)
    fig.add_trace(
        go.Heatmap(
            z=(rows % len(names)).to(torch.uint8).numpy(),
            customdata=rows.to(torch.int32).numpy(),
            y=["group: g_idx", "weight"],
            zmin=-0.5,
            zmax=len(names) - 0.5,
            colorscale=in_steps([token(name) for name in names]),
            showscale=False,
            ygap=10,
            hovertemplate="%{y}<br>column %{x}: group %{customdata}<extra></extra>",
        )
    )
    return fig


def cost(costs: OrderCosts) -> go.Figure:
    """Medians with quartiles, for each number of tokens."""
    fig = figure("The same product, both ways, measured here", "tokens at once", "milliseconds", 340)
    ways: list[tuple[str, str, list[Spread]]] = [
        ("weight: groups side by side", GREEN, [row.weight for row in costs.rows]),
        ("group: g_idx", PURPLE, [row.group for row in costs.rows]),
        (f"{costs.dtype} weight, no codes", SLATE, [row.plain for row in costs.rows]),
    ]
    for name, colour, spreads in ways:
        fig.add_trace(
            go.Bar(
                x=[f"{row.tokens}" for row in costs.rows],
                y=[one.median_ms for one in spreads],
                error_y={
                    "type": "data",
                    "array": [one.high_ms - one.median_ms for one in spreads],
                    "arrayminus": [one.median_ms - one.low_ms for one in spreads],
                    "color": INK,
                    "thickness": 1.5,
                },
                marker={"color": colour, "pattern": {"shape": "/"} if colour == PURPLE else {}},
                name=name,
                hovertemplate=f"{name}, %{{x}} tokens: median %{{y:.3g}} ms<extra></extra>",
            )
        )
    fig.update_xaxes(type="category")
    fig.update_layout(barmode="group", bargap=0.35, showlegend=True)
    return fig


def order_map(found: OrderMap) -> go.Figure:
    """Loss over that of rounding to nearest at the same bits and group; a star is the least loss at these bits."""
    bits = sorted({cell.bits for cell in found.cells})
    grains = list(dict.fromkeys(cell.granularity for cell in found.cells))
    ways = list(dict.fromkeys((cell.actorder, cell.damp) for cell in found.cells))
    z = np.full((len(ways), len(bits) * len(grains)), np.nan, np.float32)
    shown = np.full(z.shape, "", dtype=object)
    hover = np.full(z.shape, "", dtype=object)
    for cell in found.cells:
        row = ways.index((cell.actorder, cell.damp))
        col = bits.index(cell.bits) * len(grains) + grains.index(cell.granularity)
        best = cell == found.best(cell.bits)
        z[row, col] = 100 * cell.over_rtn
        shown[row, col] = f"<b>★ {100 * cell.over_rtn:.0f}</b>" if best else f"{100 * cell.over_rtn:.0f}"
        hover[row, col] = (
            f"int{cell.bits}, {cell.granularity}, order {cell.actorder or 'none'}, damping {cell.damp:g}<br>"
            f"loss {percent(cell.loss)} of the output, RTN {percent(cell.rtn_loss)}; "
            f"{cell.bits_per_weight:.2f} bits per weight"
        )
    fig = figure(
        "GPTQ's loss, % of RTN's at the same bits and group", "group size, and the bits", "order, and damping", 440
    )
    fig.add_trace(
        go.Heatmap(
            z=z,
            x=[
                [f"{b} bits" for b in bits for _ in grains],
                [grain.removeprefix("group").replace("channel", "row") for _ in bits for grain in grains],
            ],
            y=[[f"order {order or 'none'}" for order, _ in ways], [f"{damp:g}" for _, damp in ways]],
            text=shown.tolist(),
            customdata=hover.tolist(),
            texttemplate="%{text}",
            textfont={"size": 12},
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=SEQUENTIAL,
            colorbar={**colour_bar("% of RTN's loss"), "y": -0.3},
            xgap=1,
            ygap=1,
        )
    )
    fig.update_yaxes(autorange="reversed")
    return fig


def toy(found: Toy) -> go.Figure:
    """The loss around two weights, the lattice, and where each way ends."""
    fig = figure("The loss around two weights, and the lattice", "weight 1, steps", "weight 2, steps", 520)
    centre = np.array(found.weight)
    for point in {round(one.loss, 12): one for one in found.points}.values():
        x, y = _ellipse(found.hessian, point.loss)
        fig.add_trace(_line(centre[0] + x, centre[1] + y, SLATE, "solid", 1, f"loss {point.loss:.3g}"))
    whole = np.arange(math.floor(min(centre)) - 4, math.ceil(max(centre)) + 5)
    xs, ys = np.meshgrid(whole, whole)
    dots = {"color": token("slate", 0.7), "size": 5}
    fig.add_trace(_points(xs.ravel(), ys.ravel(), "lattice", dots, "lattice point (%{x}, %{y})"))
    for way in WAYS:
        point = found.point(way)
        colour, symbol, size = TOY_MARKS[way]
        if point.moved is not None:
            path = np.array([centre, point.moved, point.point])
            fig.add_trace(_line(path[:, 0], path[:, 1], colour, "solid" if way.endswith("1 first") else "dash", 2.5))
            stop = {"color": colour, "symbol": "circle-open", "size": 9, "line": {"width": 2}}
            moved = "the other weight has moved to (%{x:.3g}, %{y:.3g})"
            fig.add_trace(_points(path[1:2, 0], path[1:2, 1], way, stop, f"{way}: {moved}"))
        mark = {"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}}
        label = f"{way}: loss {point.loss:.3g}"
        fig.add_trace(_points([point.point[0]], [point.point[1]], label, mark, f"{label} at (%{{x}}, %{{y}})", True))
    mark = {"color": INK, "symbol": "diamond", "size": 12}
    fig.add_trace(_points(centre[:1], centre[1:], "the weights", mark, "the weights (%{x:.3g}, %{y:.3g})", True))
    fig.update_xaxes(range=[centre[0] - TOY_REACH, centre[0] + TOY_REACH], dtick=1)
    fig.update_yaxes(range=[centre[1] - TOY_REACH, centre[1] + TOY_REACH], dtick=1, scaleanchor="x")
    fig.update_layout(showlegend=True, uirevision=str(found.weight))
    return fig


def _ellipse(hessian: Tensor, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors of one loss: e = sqrt(loss) L^-T u over unit vectors u, H = L L^T."""
    angle = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    e = math.sqrt(loss) * torch.linalg.solve_triangular(torch.linalg.cholesky(hessian).T, circle, upper=True)
    return e[0].numpy(), e[1].numpy()


def _line(x: np.ndarray, y: np.ndarray, colour: str, dash: str, width: float, hover: str = "") -> go.Scatter:
    style = {"color": colour, "dash": dash, "width": width}
    shown: dict[str, Any] = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    return go.Scatter(x=x, y=y, mode="lines", line=style, showlegend=False, **shown)


def _points(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    name: str,
    mark: dict[str, Any],
    hover: str,
    key: bool = False,
) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, mode="markers", marker=mark, name=name, showlegend=key, hovertemplate=f"{hover}<extra></extra>"
    )
