"""What the page Outliers says first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quantcore.studies.outliers import ChannelStudy, Payer


def headline(study: ChannelStudy, payers: Sequence[Payer], fmt: str) -> str:
    """How loud the loudest channel is, and what one scale for all costs beside a scale a token."""
    shared, own = (float(one.token_sqnr_db.median()) for one in payers[:2])
    who = f"Channel **{study.top[0].channel}** is **{ratio_text(study.ratio)} times** as loud as the median one"
    paid = f"the median token's input keeps **{shared:z.1f} dB** in {fmt} under one scale for all"
    return f"{who}: {paid}, **{own:z.1f} dB** under a scale of its own."


def ratio_text(value: float) -> str:
    """1.0, 15.3, 3,010, inf."""
    return "inf" if math.isinf(value) else f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}"
