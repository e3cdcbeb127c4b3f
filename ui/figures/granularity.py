"""Pictures of the page Granularity: the weight with its tiles, the map of scales, the map of errors; the two curves."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.numbers.scales import FLOAT
from quantcore.studies.granularity import MOST_BORDERS, GranularityStudy
from ui.components.palette import AMBER, BLUE, GREEN, INK, PURPLE, SLATE, SURFACE, VERMILION
from ui.figures.base import colour_bar, figure, heat_map

ERROR_DECADES = 2
FAMILIES = {
    ("tensor", FLOAT.name): (INK, "diamond"),
    ("channel", FLOAT.name): (GREEN, "square"),
    ("block", FLOAT.name): (AMBER, "cross"),
    ("group", FLOAT.name): (BLUE, "circle"),
    ("group", "e8m0"): (PURPLE, "triangle-up"),
    ("group", "e4m3"): (SLATE, "triangle-down"),
}


def weight_map(study: GranularityStudy, limit: float) -> go.Figure:
    """The weight, the borders of its tiles, and the worst tile framed; of flat tiles a few rows, to see them apart."""
    out_features, in_features = study.shape
    (rows, cols), (row, col) = study.tile, study.worst_tile
    first, last = study.shown.start, study.shown.stop
    title = "The weight and its tiles" if first == 0 and last == out_features else f"Rows {first} to {last - 1}, tiled"
    fig = figure(title, "input channel", "output channel", 400, uirevision=f"rows {first} to {last}")
    trace = heat_map(study.weight, "weight", limit=limit)
    fig.add_trace(trace.update(y0=trace.y0 + first))
    for edges, ends, other, vertical in (
        (cols, (0, in_features), (first, last), True),
        (rows, (first, last), (0, in_features), False),
    ):
        if edges < ends[1] - ends[0] <= MOST_BORDERS * edges:
            fig.add_trace(_borders(range(ends[0] + edges, ends[1], edges), other, vertical))
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
    return _as_map(fig, last, first)


def _borders(positions: range, ends: tuple[int, int], vertical: bool) -> go.Scatter:
    along: list[float | None] = []
    across: list[float | None] = []
    for position in positions:
        along += [position - 0.5, position - 0.5, None]
        across += [ends[0] - 0.5, ends[1] - 0.5, None]
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
    return _as_map(fig, study.shape[0])


def error_map(study: GranularityStudy, limit: float) -> go.Figure:
    """log10 |W_hat - W| below `limit`, in colours that stay while format and granularity change: errors pale."""
    fig = figure("The error each weight takes", "input channel", "output channel", 400, uirevision="maps")
    decades = (study.error.values / limit).clamp(10.0**-ERROR_DECADES, 1).log10() + ERROR_DECADES
    trace = heat_map(study.error._replace(values=decades), "size of the error", signed=False, limit=ERROR_DECADES)
    ticks = [tick / 2 for tick in range(2 * ERROR_DECADES + 1)]
    trace.update(
        colorscale=[[0, SURFACE], [1, VERMILION]],
        customdata=limit * 10.0 ** (trace.z - ERROR_DECADES),
        hovertemplate=trace.hovertemplate.replace("%{z:.4g}", "%{customdata:.4g}"),
        colorbar={
            **colour_bar("size of the error, log"),
            "tickvals": ticks[::2],
            "ticktext": [f"{limit * 10 ** (tick - ERROR_DECADES):.2g}" for tick in ticks[::2]],
        },
    )
    fig.add_trace(trace)
    return _as_map(fig, study.shape[0])


def _as_map(fig: go.Figure, last: int, first: int = 0) -> go.Figure:
    fig.update_layout(showlegend=False)
    fig.update_yaxes(range=[last - 0.5, first - 0.5])
    return fig


def cost_curve(study: GranularityStudy) -> go.Figure:
    """SQNR of the median token's output against bits per weight, every granularity and every way to store a scale a
    point, the chosen one ringed."""
    fig = figure(
        "What finer scales cost and buy", "bits per weight, scales counted", "output SQNR, median token, dB", 500
    )
    for (family, stored), (colour, symbol) in FAMILIES.items():
        rows = [row for row in study.rows if row.granularity.startswith(family) and row.stored == stored]
        if rows:
            fig.add_trace(
                go.Scatter(
                    x=[row.bits_per_weight for row in rows],
                    y=[row.token_sqnr_db for row in rows],
                    text=[row.name for row in rows],
                    mode="lines+markers" if len(rows) > 1 else "markers",
                    line={"color": colour, "width": 2},
                    marker={"color": colour, "symbol": symbol, "size": 10},
                    name=f"per {family}" if stored == FLOAT.name else f"per {family}, scales in {stored}",
                    hovertemplate="%{text}: %{x:.3f} bits, %{y:.2f} dB<extra></extra>",
                )
            )
    chosen = study.chosen
    fig.add_trace(
        go.Scatter(
            x=[chosen.bits_per_weight],
            y=[chosen.token_sqnr_db],
            mode="markers",
            marker={"size": 20, "symbol": "circle-open", "color": VERMILION, "line": {"width": 3}},
            name=f"chosen: {chosen.name}",
            hovertemplate=f"chosen: {chosen.name}<extra></extra>",
        )
    )
    return fig
