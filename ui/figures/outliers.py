"""Pictures of the page Outliers: the map of layers, the surface of one input, who pays, and the two remedies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from quantcore.numbers.pooling import extreme_places, pool_extreme
from quantcore.studies.outliers import GRAINS, ChannelStudy, OutlierMap, Payer, Remedies, Remedy
from ui.components.palette import BLUE, GREEN, INK, SEQUENTIAL, VERMILION
from ui.figures.base import colour_bar, figure, log_ticks
from ui.markdown import plotted
from ui.words.outliers import ratio_text

HEIGHT = 480
ROW, AROUND_ROWS = 18, 110  # pixels of a row that a number can be read in, and of what stands around all rows
SURFACE_TOKENS, SURFACE_CHANNELS = 40, 104
MOST_DOTS = 1024
DEAD = 10  # channels whose maximum is this many times below the median one are not in view at first
MOST_CELL_TEXTS = 400
MOST_TICKS = 24
LOG_DECADES = 4
WATCH = {"output": "output_sqnr_db", "input": "input_sqnr_db", "median token": "token_sqnr_db"}  # fields of a Remedy
STYLES = {"tensor": (INK, "diamond"), "token": (GREEN, "square"), "group": (BLUE, "circle")}  # colour and marker


def layer_map(found: OutlierMap, layer: str) -> go.Figure:
    """Outlier ratio of every layer, blocks down, modules across, colour on a log scale; the chosen layer framed."""
    ratio = found.ratio.double().numpy()
    finite = ratio[np.isfinite(ratio)]
    top = max(float(finite.max()) if len(finite) else 1.0, 2.0)
    texts = [["" if math.isnan(value) else ratio_text(value) for value in row] for row in ratio.tolist()]
    fig = figure(
        "Largest over median channel, every layer",
        "",
        "block",
        max(HEIGHT, AROUND_ROWS + ROW * len(found.blocks)),
        uirevision=",".join(found.modules),
        showlegend=False,
        shapes=[_frame(*cell)] if (cell := found.cell_of(layer)) else [],
    )
    bar = {**colour_bar("largest / median channel maximum, log"), "y": -0.03}
    ticks = [tick for power in range(7) for tick in (10**power, 3 * 10**power) if tick <= top]
    fig.add_trace(
        go.Heatmap(
            z=np.log10(np.minimum(ratio, top)).astype(np.float32),
            zmin=0,
            zmax=math.log10(top),
            colorscale=SEQUENTIAL,
            colorbar={**bar, "tickvals": np.log10(ticks), "ticktext": ticks},
            text=texts,
            texttemplate="%{text}" if ratio.size <= MOST_CELL_TEXTS else None,
            textfont={"size": 12},
            customdata=found.names,
            hovertemplate="%{customdata}<br>largest / median channel maximum %{text}<br>click to open<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    plain = {"showgrid": False, "zeroline": False}
    fig.update_xaxes(
        plain,
        tickvals=list(range(len(found.modules))),
        ticktext=_short(found.modules),
        side="top",
        tickfont={"size": 12},
    )
    blocks = ["none" if block is None else str(block) for block in found.blocks]
    rows = _few(len(blocks))
    fig.update_yaxes(plain, tickvals=rows, ticktext=[blocks[i] for i in rows], range=[len(blocks) - 0.5, -0.5])
    return fig


def _frame(row: int, col: int) -> dict[str, Any]:
    """A frame around a cell of the map."""
    corners = {"x0": col - 0.5, "x1": col + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    return {"type": "rect", **corners, "line": {"color": VERMILION, "width": 4}}


def surface(
    x: Tensor, study: ChannelStudy, tokens: Sequence[str], log: bool, title: str = "", reach: float | None = None
) -> go.Figure:
    """|x| over tokens and channels; each vertex is the largest of its block, so no outlier gets lost.

    tokens    the text of each token, in order; reach: where the height ends, of two that are compared"""
    magnitude = x.abs()
    pooled = pool_extreme(magnitude, SURFACE_TOKENS, SURFACE_CHANNELS)
    z = pooled.values.numpy().astype(np.float32)
    peak = float(z.max()) or 1.0
    z = np.maximum(z, peak * 10.0**-LOG_DECADES) if log else z
    step = pooled.row_step * pooled.col_step
    note = f", each point the largest of {pooled.row_step} x {pooled.col_step}" if step > 1 else ""
    top = study.top[0]
    fig = figure(
        title or f"|x| of {x.shape[0]} tokens x {x.shape[1]:,} channels{note}",
        height=HEIGHT,
        showlegend=False,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        scene=_scene(len(tokens), top.token, _bare(tokens[top.token]), log, reach),
    )
    fig.add_trace(
        go.Surface(
            x=np.arange(z.shape[1], dtype=np.float32) * pooled.col_step,
            y=np.arange(z.shape[0], dtype=np.float32) * pooled.row_step,
            z=z,
            surfacecolor=_shades(z, log),
            cmin=0,
            cmax=255,
            colorscale=SEQUENTIAL,
            showscale=False,
            text=_vertex_texts(pooled.values, *extreme_places(magnitude, pooled), [_quoted(token) for token in tokens]),
            hoverinfo="text",  # a surface's hovertemplate knows x, y and z only
            contours={axis: {"highlight": False} for axis in "xyz"},
            name="|x|",
        )
    )
    fig.add_trace(
        go.Scatter3d(
            x=[top.channel // pooled.col_step * pooled.col_step],
            y=[top.token // pooled.row_step * pooled.row_step],
            z=[peak],
            mode="markers+text",
            text=[f"channel {top.channel}, token {top.token} {_bare(tokens[top.token])}"],
            textposition="top center",
            marker={"size": 4, "color": VERMILION},
            hovertemplate=f"%{{text}}<br>|x| = {top.absmax:.4g}<extra></extra>",
        )
    )
    return fig


def dragged(x: Tensor, scales: Mapping[str, Tensor], study: ChannelStudy, log: bool) -> list[go.Figure]:
    """For each s (K,), by the title, what moves of `surface` where it shows |x / s|: heights, shades, and `study`'s
    marked peak."""
    found, top = [], study.top[0]
    for title, s in scales.items():
        pooled = pool_extreme((x / s).abs(), SURFACE_TOKENS, SURFACE_CHANNELS)
        z = pooled.values.numpy().astype(np.float32)
        z = np.maximum(z, float(z.max()) * 10.0**-LOG_DECADES) if log else z
        peak = float(x[top.token, top.channel].abs() / s[top.channel])
        found.append(
            go.Figure(
                [
                    go.Surface(z=z, surfacecolor=_shades(z, log), hoverinfo="skip"),
                    go.Scatter3d(z=[peak], hoverinfo="skip"),
                ],
                {"title": {"text": title}},
            )
        )
    return found


def _vertex_texts(heights: Tensor, rows: Tensor, cols: Tensor, tokens: Sequence[str]) -> np.ndarray:
    """What hovering over each vertex says, an array: of nested lists plotly.py would make one text a row."""
    cells = zip(heights.flatten().tolist(), rows.flatten().tolist(), cols.flatten().tolist(), strict=True)
    texts = [f"|x| {height:.3g}<br>channel {col}<br>token {row} {tokens[row]}" for height, row, col in cells]
    return np.array(texts).reshape(heights.shape)


def _scene(count: int, marked: int, text: str, log: bool, reach: float | None) -> dict[str, Any]:
    """Axes of the surface: about five of `count` token positions, and the marked one, with its text, in place of those
    that it would cover."""
    even = range(0, count, max(1, count // 4))
    ticks = sorted([marked, *(tick for tick in even if abs(tick - marked) > count / 12)])
    labels = [f"{token} {text}" if token == marked else str(token) for token in ticks]
    height: dict[str, Any] = (
        {"title": {"text": "|x|, log"}, "type": "log", "dtick": "D2"} if log else {"title": {"text": "|x|"}}
    )
    if reach is not None:
        height |= {"range": [math.log10(reach) - LOG_DECADES, math.log10(reach)] if log else [0, reach]}
    return {
        "xaxis": {"title": {"text": "input channel"}},
        "yaxis": {"title": {"text": "token position"}, "tickvals": ticks, "ticktext": labels},
        "zaxis": height,
        "camera": {"eye": {"x": 1.65, "y": 1.65, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.1}},
        "aspectmode": "manual",
        "aspectratio": {"x": 1.35, "y": 1.0, "z": 0.7},
    }


def _shades(z: np.ndarray, log: bool) -> np.ndarray:
    """Heights as 0..255, from the lowest (log) or from 0 (linear) to the peak."""
    heights = np.log10(z / z.min()) if log else z
    return np.rint(255 * heights / (heights.max() or 1.0)).astype(np.uint8)


def token_errors(
    payers: Sequence[Payer],
    study: ChannelStudy,
    tokens: Sequence[str],
    title: str = "Which tokens pay",
    span: list[float] | None = None,
) -> go.Figure:
    """SQNR of each token under every granularity, by its position. span: of the axis, where two are compared."""
    loudest = int(study.token_absmax.argmax())
    mark = {"x": loudest, "y": 1, "yref": "paper", "text": f"largest value: token {loudest}", "showarrow": False}
    side = {
        "xanchor": "left" if loudest < len(tokens) / 2 else "right",
        "yanchor": "bottom",
        "font": {"color": VERMILION},
    }
    line = {"type": "line", "x0": loudest, "x1": loudest, "y0": 0, "y1": 1, "yref": "paper"}
    fig = figure(
        title,
        "token position",
        "SQNR of the token, dB",
        400,
        annotations=[{**mark, **side}],
        shapes=[{**line, "line": {"color": VERMILION, "width": 2, "dash": "dot"}}],
    )
    texts = [_quoted(token) for token in tokens]
    positions = np.arange(len(tokens), dtype=np.float32)
    for payer in payers:
        hover = f"token %{{x}} %{{text}}<br>{_named(payer)}: %{{y:.1f}} dB<extra></extra>"
        fig.add_trace(_dots(payer, positions, payer.token_sqnr_db, text=texts, hovertemplate=hover))
    if span is not None:
        fig.update_yaxes(range=span)
    return fig


def channel_errors(payers: Sequence[Payer], study: ChannelStudy) -> go.Figure:
    """SQNR of each channel under every granularity, by the channel's own maximum; nearly dead ones are off the left."""
    order = study.channel_absmax.argsort(descending=True, stable=True)
    shown = order[:: -(-len(order) // MOST_DOTS)]
    of_all = "" if len(shown) == len(order) else f" ({len(shown):,} of {len(order):,}, evenly by size)"
    fig = figure(f"Which channels pay{of_all}", "largest |x| of the channel, log", "SQNR of the channel, dB", 400)
    for payer in payers:
        fig.add_trace(
            _dots(
                payer,
                study.channel_absmax[shown].numpy(),
                payer.channel_sqnr_db[shown],
                customdata=shown.numpy().astype(np.int32),
                hovertemplate="channel %{customdata}, largest %{x:.3g}<br>"
                f"{_named(payer)}: %{{y:.1f}} dB<extra></extra>",
            )
        )
    least, median, largest = (float(study.channel_absmax.quantile(q)) for q in (0, 0.5, 1))
    if median > 0:
        fig.update_xaxes(range=[math.log10(max(0.8 * least, median / DEAD)), math.log10(1.3 * largest)])
    fig.update_xaxes(type="log", **log_ticks([max(least, median / DEAD) if median > 0 else 1.0, max(largest, 1e-9)]))
    return fig


def clip_curve(curves: Remedies, chosen: Sequence[Remedy], watch: str) -> go.Figure:
    """SQNR of what is watched (a key of WATCH) against the percentile at which values are clipped; `chosen` marked."""
    fig = figure(f"Clip at a percentile: the {watch}", "percentile (p100: nothing is clipped)", _axis(watch), 400)
    _remedy_lines(fig, curves.clips, chosen, "clip", watch)
    fig.update_xaxes(type="category", tickangle=-45)
    return fig


def keep_curve(curves: Remedies, chosen: Sequence[Remedy], watch: str) -> go.Figure:
    """SQNR of what is watched against the number of channels kept in float; `chosen` marked."""
    fig = figure(f"Keep the loudest channels in float: the {watch}", "channels kept in float", _axis(watch), 400)
    _remedy_lines(fig, curves.keeps, chosen, "keep", watch)
    return fig


def _axis(watch: str) -> str:
    return f"SQNR of the {watch}, dB"


def gain_text(value_db: float, before_db: float) -> str:
    """31.5 dB (+2.7); a tensor that the codes hit exactly has no error to speak of."""
    if not math.isfinite(value_db) or not math.isfinite(before_db):
        return "exact" if value_db == math.inf else f"{value_db:z.1f} dB"
    return f"{value_db:z.1f} dB ({value_db - before_db:+z.1f})"


def _remedy_lines(fig: go.Figure, rows: Sequence[Remedy], chosen: Sequence[Remedy], axis: str, watch: str) -> None:
    field = WATCH[watch]
    for grain in GRAINS:
        colour, symbol = STYLES[grain]
        line = [row for row in rows if row.granularity == grain]
        fig.add_trace(
            go.Scatter(
                x=[getattr(row, axis) for row in line],
                y=[_finite(getattr(row, field)) for row in line],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"color": colour, "symbol": symbol, "size": 8},
                name=f"a scale per {grain}",
                hovertemplate=f"{axis} %{{x}}, a scale per {grain}: %{{y:.2f}} dB<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=[getattr(row, axis) for row in chosen],
            y=[_finite(getattr(row, field)) for row in chosen],
            mode="markers",
            marker={"size": 18, "symbol": "circle-open", "color": VERMILION, "line": {"width": 3}},
            name=f"chosen: {getattr(chosen[0], axis)}",
            hoverinfo="skip",
        )
    )


def _dots(payer: Payer, x: np.ndarray, sqnr_db: Tensor, **trace: Any) -> go.Scatter:
    colour, symbol = STYLES[payer.granularity.rstrip("0123456789")]
    y = sqnr_db.numpy().astype(np.float32)
    return go.Scatter(
        x=x,
        y=np.where(np.isfinite(y), y, np.float32(np.nan)),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.7},
        name=f"{_named(payer)}: median {float(sqnr_db.median()):z.1f} dB",
        **trace,
    )


def _named(payer: Payer) -> str:
    """per tensor, per token, per group of 128."""
    grain = payer.granularity
    return f"per group of {grain.removeprefix('group')}" if grain.startswith("group") else f"per {grain}"


def _few(count: int) -> list[int]:
    """Places of ticks, evenly spread."""
    return list(range(0, count, -(-count // MOST_TICKS)))


def _short(modules: Sequence[str]) -> list[str]:
    """The last part of each module's name, the whole name where that is not enough."""
    last = [module.rsplit(".", 1)[-1] for module in modules]
    return [escape(short if last.count(short) == 1 else whole) for short, whole in zip(last, modules, strict=True)]


def _quoted(text: str) -> str:
    """A token's text as hover text may show it: no markup."""
    return f"'{plotted(text)}'"


def _bare(text: str) -> str:
    """A token's text as WebGL may show it, which knows no entities: single guillemets in place of angle brackets."""
    return f"'{text.replace('<', chr(0x2039)).replace('>', chr(0x203A)).replace('var(', 'var (')}'"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
