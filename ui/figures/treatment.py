"""A layer before and after a treatment: what its activations give and its weights take, and who pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch

from quantcore.studies.treatment import TreatmentStudy
from ui.components.palette import BLUE, VERMILION
from ui.figures.base import figure, log_ticks
from ui.figures.outliers import token_errors


def difficulty(study: TreatmentStudy, words: str) -> go.Figure:
    """The largest |x| and |w| of each channel before and after; channels by their |x| before, loudest first."""
    before, after = study.before, study.after
    order = before.channels.channel_absmax.argsort(descending=True, stable=True)
    fig = figure(
        "What the activations give, the weights take", "channels, the loudest first", "largest value, log", 420
    )
    lines = (
        ("|x| before", before.channels.channel_absmax, VERMILION, "dot"),
        (f"|x|, {words}", after.channels.channel_absmax, VERMILION, "solid"),
        ("|w| before", before.weight_reach, BLUE, "dot"),
        (f"|w|, {words}", after.weight_reach, BLUE, "solid"),
    )
    for name, values, colour, dash in lines:
        fig.add_trace(
            go.Scatter(
                x=np.arange(len(order)),
                y=values[order].float().numpy(),
                mode="lines",
                name=name,
                line={"color": colour, "dash": dash, "width": 2},
                hovertemplate=f"{name}: %{{y:.3g}}<extra></extra>",
            )
        )
    seen = [
        float(value) for _, values, _, _ in lines for value in (values[values > 0].min(), values.max()) if value > 0
    ]
    fig.update_yaxes(type="log", **log_ticks(seen))
    return fig


def both_token_errors(study: TreatmentStudy, tokens: Sequence[str], words: str) -> tuple[go.Figure, go.Figure]:
    """`token_errors` before and after a treatment, on one axis."""
    sides = (study.before, "before"), (study.after, f"after {words}")
    seen = torch.cat([payer.token_sqnr_db for side, _ in sides for payer in side.payers])
    seen = seen[seen.isfinite()]
    span = [float(seen.min()) - 1, float(seen.max()) + 1] if len(seen) else None
    before, after = (
        token_errors(side.payers, side.channels, tokens, f"Which tokens pay, {name}", span) for side, name in sides
    )
    return before, after
