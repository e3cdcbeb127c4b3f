"""The control of a guess, and the bars of a class's guesses."""

from __future__ import annotations

from functools import lru_cache

import plotly.graph_objects as go
import streamlit as st

from ui.components.hand import ruler, sorter
from ui.components.palette import GREEN, SLATE
from ui.course.guess import Guess, Number, Order, Rows
from ui.course.stage import picture

BARS = 32  # pictures of guesses that are kept


def ask_for(guess: Guess, label: str, start: str | None, key: str) -> str | None:
    """Draw the control; the guess as a text, None until there is one. `start` is what a link said."""
    if isinstance(guess, Number):
        text = ruler(
            label=label,
            lo=guess.lo,
            hi=guess.hi,
            step=guess.step,
            unit=guess.unit,
            start=start,
            key=key,
            name=guess.name,
            ticks=guess.ticks,
            counts=guess.counts,
            edges=guess.edges,
        )
    elif isinstance(guess, Order):
        curves = guess.curves or ((1.0,),) * len(guess.cards)
        cards = list(zip(guess.cards, curves, strict=True))
        text = sorter(label=label, cards=cards, start=start, key=key)
    else:
        text = _rows(guess, label, start, key)
    return None if text is None else guess.read(text)


def _rows(guess: Rows, label: str, start: str | None, key: str) -> str | None:
    known = None if start is None else guess.chosen(start)
    chosen = [
        st.segmented_control(
            name or label,
            options,
            default=None if known is None else known[place],
            key=f"{key}_{place}",
            wrap=True,
            label_visibility="visible" if name else "collapsed",
        )
        for place, (name, options) in enumerate(guess.rows)
    ]
    return None if None in chosen else guess.of(*[one for one in chosen if one is not None])


@lru_cache(BARS)
def bars(guess: Guess, texts: tuple[str, ...], truth: str, height: int) -> go.Figure:
    """How often each answer was given; the true one is green, and named so. Made once for a whole class."""
    tally = guess.tally(texts, truth)
    flat = isinstance(guess, Rows)
    fig = picture("", "" if flat else "guesses", height, showlegend=False, bargap=0.15)
    if flat:
        fig.update_layout(margin={"t": 8})  # nothing stands above
    colours = [GREEN if place in tally.true else SLATE for place in range(len(tally.counts))]
    counts = [str(count) if count else "" for count in tally.counts]
    labels = [f"{label} ✓" if place in tally.true else label for place, label in enumerate(tally.labels)]
    across = {"x": list(tally.counts)[::-1], "y": labels[::-1], "orientation": "h", "text": counts[::-1]}
    upright = {"x": labels, "y": list(tally.counts), "text": counts}
    marker = {"color": colours[::-1] if flat else colours}
    fig.add_trace(go.Bar(**(across if flat else upright), marker=marker, textposition="outside", cliponaxis=False))
    if not flat:
        for place in tally.true:  # also where nobody has guessed it
            fig.add_vrect(place - 0.5, place + 0.5, fillcolor=GREEN, opacity=0.25, line_width=0)
            side = "left" if place < len(labels) / 2 else "right"
            words = {"text": "the truth", "font": {"color": GREEN}, "showarrow": False}
            fig.add_annotation(x=place, y=1, yref="paper", xanchor=side, yanchor="bottom", **words)
    axis = fig.update_xaxes if flat else fig.update_yaxes
    axis(range=[0, 1.2 * max(1, *tally.counts)], visible=False)
    if not flat:
        fig.update_xaxes(type="category", nticks=6)
    return fig
