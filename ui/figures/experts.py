"""Experts x blocks, coloured by load and by damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from quantcore.studies.experts import ExpertStudy
from ui.components.palette import SEQUENTIAL
from ui.figures.base import colour_bar, figure

ROW, LEAST, MOST = 22, 320, 640  # pixels
BESIDE, LABELS = 170, 52  # pixels: of all that is not the map, and of the labels between it and its colour bar


def load_map(study: ExpertStudy) -> go.Figure:
    """How many tokens of the text each expert was given, and which share that is."""

    def said(tokens: float) -> str:
        return f"{tokens:,.0f} tokens, {tokens / study.read:.1%} of the text" if tokens else "no token reached it"

    return _map(study, study.tokens, "Tokens that each expert is given", "tokens", said, SEQUENTIAL)


def damage_map(study: ExpertStudy) -> go.Figure:
    """The least output SQNR of each expert's layers; an expert that no token reached stays empty."""
    return _map(
        study, study.damage_db, "What is left of each expert", "SQNR, dB", "{:z.1f} dB".format, f"{SEQUENTIAL}_r"
    )


def _map(
    study: ExpertStudy,
    rows: Sequence[Sequence[float | None]],
    title: str,
    unit: str,
    words: Callable[[float], str],
    colours: str,
) -> go.Figure:
    z = np.full((len(rows), study.experts), np.nan, np.float32)
    shown = np.full(z.shape, "", dtype=object)
    for row, block in enumerate(study.blocks):
        for expert, value in enumerate(rows[row]):
            z[row, expert] = np.nan if value is None else value
            said = "no token reached it" if value is None else words(value)
            shown[row, expert] = f"block {block}, expert {expert}<br>{said}"
    height = min(MOST, max(LEAST, BESIDE + ROW * len(rows)))
    fig = figure(title, "expert", "block", height)
    fig.add_trace(
        go.Heatmap(
            z=z,
            x=[str(expert) for expert in range(study.experts)],
            y=[str(block) for block in study.blocks],
            text=shown.tolist(),
            hovertemplate="%{text}<extra></extra>",
            colorscale=colours,
            colorbar={**colour_bar(unit), "y": -LABELS / (height - BESIDE)},
            xgap=1,
            ygap=1,
        )
    )
    fig.update_yaxes(autorange="reversed", type="category")
    fig.update_xaxes(type="category")
    return fig
