"""Pictures of the page Granularity: the weight with its tiles, the map of scales, the map of errors; the two curves."""

from __future__ import annotations

import plotly.graph_objects as go
import torch

from quantcore.studies.granularity import GranularityStudy
from ui.components.palette import AMBER, BLUE, GREEN, INK, VERMILION
from ui.figures.base import figure, heat_map

MOST_BORDERS = 40
FAMILIES = {
    "tensor": (INK, "diamond"),
    "channel": (GREEN, "square"),
    "block": (AMBER, "cross"),
    "group": (BLUE, "circle"),
}


def weight_map(study: GranularityStudy, limit: float | None) -> go.Figure:
    """The weight, the borders of its tiles, and the worst tile framed."""
    fig = figure("The weight and its tiles", "input channel", "output channel", 400, uirevision="maps")
    fig.add_trace(heat_map(study.weight, "weight", limit=limit))
    out_features, in_features = study.weight.shape
    rows, cols = study.tile
    for edges, size, other, vertical in (
        (cols, in_features, out_features, True),
        (rows, out_features, in_features, False),
    ):
        if edges < size and size // edges <= MOST_BORDERS:
            fig.add_trace(_borders(range(edges, size, edges), other, vertical))
    row, col = study.worst_tile
    y0, x0 = row * rows - 0.5, col * cols - 0.5
    fig.add_trace(
        go.Scatter(
            x=[x0, x0 + cols, x0 + cols, x0, x0],
            y=[y0, y0, y0 + rows, y0 + rows, y0],
            mode="lines",
            line={"color": VERMILION, "width": 3},
            name="tile with the largest error",
            hovertemplate=f"the tile with the largest error: row {row}, column {col} of the scales<extra></extra>",
        )
    )
    return _as_map(fig, out_features)


def _borders(positions: range, length: int, vertical: bool) -> go.Scatter:
    along: list[float | None] = []
    across: list[float | None] = []
    for position in positions:
        along += [position - 0.5, position - 0.5, None]
        across += [-0.5, length - 0.5, None]
    x, y = (along, across) if vertical else (across, along)
    return go.Scatter(
        x=x, y=y, mode="lines", line={"color": INK, "width": 1}, name="tile border", hoverinfo="skip", showlegend=False
    )


def scale_map(study: GranularityStudy) -> go.Figure:
    """The scales, drawn where their tiles lie."""
    shape = " x ".join(str(size) for size in study.scale.shape)
    fig = figure(f"The scales: {shape}", "input channel", "output channel", 400, uirevision="maps")
    trace = heat_map(study.scale, "scale (weight per step)", rows="scale row", cols="scale column", signed=False)
    rows, cols = study.tile
    trace.update(
        x0=trace.x0 * cols + (cols - 1) / 2, dx=trace.dx * cols, y0=trace.y0 * rows + (rows - 1) / 2, dy=trace.dy * rows
    )
    fig.add_trace(trace)
    return _as_map(fig, study.weight.shape[0])


def error_map(study: GranularityStudy, limit: float) -> go.Figure:
    """|W_hat - W|, on a scale that stays while the granularity changes."""
    fig = figure("The error each weight takes", "input channel", "output channel", 400, uirevision="maps")
    fig.add_trace(heat_map(study.error.abs(), "size of the error", signed=False, limit=limit))
    return _as_map(fig, study.weight.shape[0])


def _as_map(fig: go.Figure, rows: int) -> go.Figure:
    fig.update_layout(showlegend=False)
    fig.update_yaxes(range=[rows - 0.5, -0.5])
    return fig


def cost_curve(study: GranularityStudy) -> go.Figure:
    """SQNR of the layer's output against bits per weight, every granularity a point, the chosen one ringed."""
    fig = figure(
        "What finer scales cost and buy", "bits per weight, scales counted", "SQNR of the layer's output, dB", 380
    )
    for family, (colour, symbol) in FAMILIES.items():
        rows = [row for row in study.rows if row.granularity.startswith(family)]
        if rows:
            fig.add_trace(
                go.Scatter(
                    x=[row.bits_per_weight for row in rows],
                    y=[row.output_sqnr_db for row in rows],
                    text=[row.granularity for row in rows],
                    mode="lines+markers" if len(rows) > 1 else "markers",
                    line={"color": colour, "width": 2},
                    marker={"color": colour, "symbol": symbol, "size": 10},
                    name=f"per {family}",
                    hovertemplate="%{text}: %{x:.3f} bits, %{y:.2f} dB<extra></extra>",
                )
            )
    chosen = study.chosen
    fig.add_trace(
        go.Scatter(
            x=[chosen.bits_per_weight],
            y=[chosen.output_sqnr_db],
            mode="markers",
            marker={"size": 20, "symbol": "circle-open", "color": VERMILION, "line": {"width": 3}},
            name=f"chosen: {chosen.granularity}",
            hovertemplate=f"chosen: {chosen.granularity}<extra></extra>",
        )
    )
    return fig


def shared_limit(values: torch.Tensor, quantile: float = 0.9999) -> float:
    """A colour limit that one outlier does not stretch: the value below which `quantile` of the magnitudes lie."""
    magnitudes = values.abs().flatten()
    rank = max(1, int(quantile * magnitudes.numel()))
    return float(magnitudes.kthvalue(rank).values) or 1.0
