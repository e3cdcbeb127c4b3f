"""A text with every token tinted by a number, and what two models would have written, on hover; as HTML.

The tint is vermilion whose strength grows with log KL, from `FAINT` to `FULL` nats. Every token is escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape

FAINT, FULL = 0.03, 5.0
TINT = "213,94,0"


def tint(kl: float) -> float:
    """Opacity 0..0.75 of a token with this KL."""
    if kl <= FAINT or not math.isfinite(kl):
        return 0.0
    return 0.75 * min(1.0, math.log(kl / FAINT) / math.log(FULL / FAINT))


def tinted(tokens: Sequence[str], kl: Sequence[float | None], hovers: Sequence[str], marked: int | None = None) -> str:
    """The tokens in a row; None has no number (a window's first token). `marked` is outlined."""
    spans = []
    for place, (token, number, hover) in enumerate(zip(tokens, kl, hovers, strict=True)):
        shade = 0.0 if number is None else tint(number)
        ring = "outline:2px solid currentColor;" if place == marked else ""
        shown = escape(token).replace("\n", "&#8629;<br>")
        style = f"background:rgba({TINT},{shade:.2f});border-radius:3px;{ring}"
        spans.append(f'<span style="{style}" title="{escape(hover, quote=True)}">{shown}</span>')
    return (
        '<div style="line-height:2;white-space:pre-wrap;overflow-wrap:anywhere;font-size:1.02rem" class="lab-tokens">'
        f"{''.join(spans)}</div>"
    )


def quoted(token: str) -> str:
    """A token in quotes, for a line of Markdown code: a space or a line break at its ends shows."""
    return json.dumps(token, ensure_ascii=False).replace("`", "'")


def split_at(texts: Sequence[str], parted: int | None) -> str:
    """A written text whose first diverging token is outlined and all after it shaded."""
    spans = []
    for place, token in enumerate(texts):
        after = parted is not None and place >= parted
        style = f"background:rgba({TINT},{0.35 if place == parted else 0.12});" if after else ""
        ring = "outline:2px solid currentColor;border-radius:3px;" if place == parted else ""
        spans.append(f'<span style="{style}{ring}">{escape(token)}</span>')
    return f'<div style="line-height:1.8;white-space:pre-wrap;overflow-wrap:anywhere">{"".join(spans)}</div>'
