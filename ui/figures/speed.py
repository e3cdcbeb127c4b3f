"""Pictures of the page Speed and memory: times and what they split into, rooflines, bounds, bytes beside budgets."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from quantcore.studies.footprint import BUDGETS_GB, GB, Footprint, GptqMemory
from quantcore.studies.gpus import FLOAT, Machine
from quantcore.studies.hardware import gain_bound, predict, work_of
from quantcore.studies.speed import REORDERED, SpeedReport, SpeedRow, scheme_of
from quantcore.studies.speed_curves import crossings, rows_of
from ui.components.palette import AMBER, BLUE, GREEN, INK, MUTED, PURPLE, SLATE, VERMILION, token
from ui.figures.base import figure
from ui.words.speed import TICKS, label

HEIGHT = 430
MOST_TOKENS = 8192
ROOFS = {FLOAT: (INK, "solid"), "fp8": (VERMILION, "dash"), "int8": (BLUE, "dot"), "int4": (GREEN, "dashdot")}
ROOFS["fp4"] = (PURPLE, "longdash")
PARTS = {"weights": BLUE, "KV cache": VERMILION, "activations": GREEN}
NAMED = TICKS[::2]  # in half a window all fourteen would lie on one another


def style(text: str) -> tuple[str, str, str]:
    """Colour, dash and marker of a scheme: colour by what is multiplied, dash by when the range is known."""
    scheme = scheme_of(text)
    activations = scheme.activations
    if scheme.weights is None:
        return INK, "solid", "circle-open"
    if activations is None:
        colour = GREEN if scheme.weights.fmt.bits <= 4 else PURPLE
        asymmetric = not scheme.weights.symmetric
        return colour, "dash" if REORDERED in text else "dot" if asymmetric else "solid", "square"
    colour = AMBER if "block" in str(scheme.weights) else VERMILION if activations.fmt.is_float else BLUE
    if not activations.dynamic:
        return colour, "dash", "x"
    return colour, "solid" if str(activations.granularity) != "tensor" else "dot", "circle"


def times(report: SpeedReport, schemes: Sequence[str]) -> go.Figure:
    """Milliseconds against tokens, both log; stars where a scheme passes bf16."""
    fig = figure("Time of one product", "tokens at once", "ms", HEIGHT)
    floats = report.floats
    fig.add_trace(_line("bf16", list(floats), list(floats.values()), (INK, "solid", "circle-open"), width=4))
    for text in schemes:
        rows = rows_of(report, text)
        hover = [f"{label(text)}, path {row.path}: {row.gain:.2f}x bf16" for row in rows]
        fig.add_trace(
            _line(label(text), [row.tokens for row in rows], [row.total_ms for row in rows], style(text), hover)
        )
    met = [(label(text), one) for text in schemes for one in crossings(report, text)]
    fig.add_trace(
        go.Scatter(
            x=[one.tokens for _, one in met],
            y=[one.ms for _, one in met],
            mode="markers",
            name="meets bf16",
            marker={"symbol": "star", "size": 14, "color": AMBER, "line": {"width": 1, "color": INK}},
            text=[f"{name} {'wins' if one.wins else 'loses'} beyond {one.tokens:,.0f} tokens" for name, one in met],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    return _log_axes(fig)


def _line(
    name: str,
    x: list[int],
    y: list[float],
    how: tuple[str, str, str],
    hover: list[str] | None = None,
    width: float = 2.5,
) -> go.Scatter:
    colour, dash, symbol = how
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": width},
        marker={"color": colour, "symbol": symbol, "size": 8},
        text=hover or [name] * len(x),
        hovertemplate="%{text}<br>%{x} tokens: %{y:.4g}<extra></extra>",
    )


def _log_axes(fig: go.Figure) -> go.Figure:
    fig.update_xaxes(type="log", tickvals=NAMED, ticktext=[str(one) for one in NAMED], tickangle=0)
    fig.update_yaxes(type="log", tickformat="~g", dtick=1)
    return fig


def split(report: SpeedReport, schemes: Sequence[str], tokens: int) -> go.Figure:
    """Encode and product of each scheme at one number of tokens, stacked; bf16 as a line, the whole call as a mark."""
    rows = [row for text in schemes for row in rows_of(report, text) if row.tokens == tokens]
    names = [label(row.scheme) for row in rows]
    fig = figure(f"What the time is made of, {tokens} tokens", "ms", "", 150 + 34 * len(rows), barmode="stack")
    for name, colour, values in (
        ("encode: x to codes", VERMILION, [row.encode_ms for row in rows]),
        ("product", BLUE, [row.product_ms for row in rows]),
    ):
        fig.add_trace(
            go.Bar(
                x=values,
                y=names,
                name=name,
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"%{{y}}, {name}: %{{x:.4g}} ms<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=[row.total_ms for row in rows],
            y=names,
            mode="markers",
            name="both in one call",
            marker={"symbol": "diamond", "size": 10, "color": INK},
            hovertemplate="%{y}, one call: %{x:.4g} ms<extra></extra>",
        )
    )
    if rows:
        bf16 = report.floats[tokens]
        fig.add_vline(x=bf16, line={"color": MUTED, "dash": "dash"}, annotation_text="bf16", annotation_position="top")
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(rangemode="tozero")
    return _in_order(fig)


def _in_order(fig: go.Figure) -> go.Figure:
    """Bars with room between them; the legend in the order of the stack."""
    return fig.update_layout(legend_traceorder="normal", bargap=0.3)


def roofline(machine: Machine, report: SpeedReport | None, schemes: Sequence[str], here: bool) -> go.Figure:
    """Roofs of a machine, and the measured rows as points: operations a byte against operations a second, both log.

    here    whether the rows were measured on this machine; else their marks stay hollow"""
    fig = figure(f"Roofline: {machine.name}", "operations a byte", "TFLOP/s (TOP/s)", HEIGHT)
    for arithmetic, rate in machine.rates.items():
        colour, dash = ROOFS[arithmetic]
        ridge = machine.ridge(arithmetic)
        fig.add_trace(
            go.Scatter(
                x=[0.5, ridge, max(10 * ridge, 20_000)],
                y=[0.5e-3 * machine.bandwidth_gb_s, rate, rate],
                mode="lines",
                line={"color": colour, "dash": dash, "width": 2},
                name=f"{arithmetic} {rate:,.4g}",
                hovertemplate=f"{arithmetic}: {rate:.4g} TFLOP/s from {ridge:.3g} operations a byte<extra></extra>",
            )
        )
    if report is not None:
        seen = {row.tokens: row for row in report.rows}
        _points(fig, report, "float", list(seen.values()), list(report.floats.values()), here)
        for text in schemes:
            rows = rows_of(report, text)
            _points(fig, report, text, rows, [row.total_ms for row in rows], here)
    fig.update_xaxes(type="log", tickformat="~g", dtick=1)
    fig.update_yaxes(type="log", tickformat="~g", dtick=1)
    return fig


def _points(
    fig: go.Figure, report: SpeedReport, text: str, rows: list[SpeedRow], milliseconds: list[float], here: bool
) -> None:
    name = "bf16" if text == "float" else label(text)
    colour, _, symbol = style(text)
    works = [work_of(text, report.shape, row.tokens) for row in rows]
    fig.add_trace(
        go.Scatter(
            x=[work.intensity for work in works],
            y=[1e-9 * work.flops / ms for work, ms in zip(works, milliseconds, strict=True)],
            mode="lines+markers",
            line={"color": colour, "width": 1},
            marker={"color": colour, "symbol": symbol if here else symbol.removesuffix("-open") + "-open", "size": 8},
            name=f"{name}, measured",
            showlegend=False,
            text=[f"{name}, {row.tokens} tokens on {report.device}" for row in rows],
            hovertemplate="%{text}<br>%{x:.3g} operations a byte, %{y:.3g} TFLOP/s<extra></extra>",
        )
    )


def bounds(machine: Machine, shape: tuple[int, int], schemes: Sequence[str]) -> go.Figure:
    """How many times as fast as bf16 each scheme can be at most, against tokens."""
    out, width = shape
    fig = figure(f"At most how many times bf16: {machine.name}, {out} x {width}", "tokens at once", "times", HEIGHT)
    for text in schemes:
        gains = [gain_bound(text, shape, count, machine) for count in TICKS]
        hover = [f"{label(text)}, limit: {predict(text, shape, count, machine).limit}" for count in TICKS]
        fig.add_trace(_line(label(text), TICKS, gains, style(text), hover))
    fig.add_hline(y=1, line={"color": MUTED, "dash": "dash"})
    fig.update_xaxes(type="log", tickvals=NAMED, ticktext=[str(one) for one in NAMED], tickangle=0)
    fig.update_yaxes(rangemode="tozero")
    return fig


def memory(cards: Sequence[Footprint]) -> go.Figure:
    """Weights, KV cache and activations of each scheme, stacked; the budgets that are near as lines."""
    fig = figure("Memory while it runs", "GB (10^9 bytes)", "", 160 + 38 * len(cards), barmode="stack")
    parts = {
        "weights": [card.weights_bytes for card in cards],
        "KV cache": [card.kv_bytes for card in cards],
        "activations": [card.activation_bytes for card in cards],
    }
    for name, values in parts.items():
        fig.add_trace(_stack(name, PARTS[name], values, [_short(card.scheme) for card in cards]))
    most = max(card.total_bytes for card in cards) / GB
    for budget in _near(most):
        fig.add_vline(
            x=budget, line={"color": SLATE, "dash": "dot"}, annotation_text=f"{budget} GB", annotation_position="top"
        )
    fig.update_yaxes(autorange="reversed")
    return _in_order(fig)


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:22]}..."


def _near(most: float) -> list[int]:
    """The budgets that a picture up to `most` GB can hold, the next larger one among them if it does not dwarf it."""
    larger = [one for one in BUDGETS_GB if one > most]
    return [one for one in BUDGETS_GB if most / 8 < one <= most] + [one for one in larger[:1] if one < 4 * most]


def _stack(name: str, colour: str, values: Sequence[float], names: Sequence[str]) -> go.Bar:
    return go.Bar(
        x=[value / GB for value in values],
        y=list(names),
        name=name,
        orientation="h",
        marker={"color": colour},
        hovertemplate=f"%{{y}}, {name}: %{{x:.3g}} GB<extra></extra>",
    )


def gptq(found: GptqMemory, model_bytes: float) -> go.Figure:
    """What GPTQ holds for one block, beside the whole model in 16 bits."""
    fig = figure("What GPTQ needs for one block, GB (10^9 bytes)", "", "", 260, barmode="stack")
    names = ["GPTQ, one block", "the model in 16 bits"]
    for name, colour, values in (
        ("block in 16 bits", BLUE, [found.block_bytes, 0]),
        ("Hessians", VERMILION, [found.hessian_bytes, 0]),
        ("work on the widest layer", AMBER, [found.work_bytes, 0]),
        ("hidden states of the text", GREEN, [found.hidden_bytes, 0]),
        ("all weights", token("slate", 0.6), [0, model_bytes]),
    ):
        fig.add_trace(_stack(name, colour, values, names))
    fig.update_yaxes(autorange="reversed")
    return _in_order(fig)
