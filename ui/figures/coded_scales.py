"""The picture of coded scales: element, scale and their product, one line above the other, for two formats."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from quantcore.studies.coded_scales import CodedBlock
from ui.components.palette import INK, token
from ui.figures.base import figure, log_ticks

COLOURS = ("blue", "vermilion")


def three_lines(blocks: Mapping[str, CodedBlock]) -> go.Figure:
    """Above: what one code says. In the middle: the scales that can be stored, the taken one large, a bar where the
    exact one lies. Below: their product, with the block's numbers as ticks."""
    fig = figure("", height=470, showlegend=False)
    fig.update_layout(
        xaxis={"domain": [0, 1], "anchor": "y", "title": {"text": "element: what a code says, in scales"}},
        yaxis={"domain": [0.8, 1], "showticklabels": True},
        xaxis2={
            "domain": [0, 1],
            "anchor": "y2",
            "type": "log",
            "title": {"text": "scale: what can be stored (log)"},
            **log_ticks([scale for block in blocks.values() for scale in block.scales]),
        },
        yaxis2={"domain": [0.43, 0.63]},
        xaxis3={
            "domain": [0, 1],
            "anchor": "y3",
            "title": {"text": "product: real values (dots), the block's numbers (ticks)"},
        },
        yaxis3={"domain": [0, 0.26]},
    )
    for (name, block), colour in zip(blocks.items(), COLOURS, strict=True):
        dots = {"color": token(colour), "size": 8}
        _dots(fig, block.element, name, "", marker=dots)
        sizes = [15 if scale == block.scale else 7 for scale in block.scales]
        _dots(fig, block.scales, name, "2", marker={"color": token(colour), "size": sizes})
        _dots(fig, (block.exact,), name, "2", marker={**_tick(INK), "size": 22})
        _dots(fig, block.levels, name, "3", marker=dots)
        _dots(fig, block.values, f"{name}, block", "3", marker=_tick(token(colour)))
    return fig


def _tick(colour: str) -> dict[str, object]:
    return {"symbol": "line-ns", "size": 12, "line": {"width": 1.5, "color": colour}}


def _dots(fig: go.Figure, x: tuple[float, ...], line: str, axis: str, **more: object) -> None:
    fig.add_trace(
        go.Scatter(
            x=x,
            y=[line] * len(x),
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            mode="markers",
            hovertemplate=f"{line}: %{{x:.4g}}<extra></extra>",
            **more,
        )
    )
