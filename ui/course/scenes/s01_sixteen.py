"""With how few bits does a sentence still go on as it should?"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.lab.start import PROMPTS, START_BITS, start_scheme
from quantcore.studies.next_tokens import NextTokens
from quantcore.studies.row import RowStudy
from ui.components.palette import GREEN, INK, SLATE, VERMILION, token
from ui.course.guess import Pick
from ui.course.scene import Reveal, Scene, Shown, Specimen
from ui.course.stage import built, picture, short
from ui.markdown import code, plotted

BITS = tuple(reversed(START_BITS))
NEVER = "it never breaks"
GUESS = Pick(*(f"at {bits}" for bits in BITS), NEVER)
SHARE = 0.9  # the row that is louder than nine in ten, as on the first page


def find(lab: Lab) -> Specimen:
    """The start of a sentence whose next word the model is surest of."""
    sure = {prompt: lab.likeliest(start_scheme(8), prompt).likeliest[0] for prompt in PROMPTS}
    prompt = max(PROMPTS, key=lambda one: sure[one].probability)
    said = (
        f"**{prompt} ...** The model goes on with {code(sure[prompt].text)}, {sure[prompt].probability:.0%} sure: of "
        f"our {len(PROMPTS)} sentences it is surest of this one. {built(lab)} Now each row of every table may keep "
        "only a few different values: 256 with 8 bits, 16 with 4, 4 with 2."
    )
    return Specimen(said, GUESS, of=prompt)


def reveal(lab: Lab, found: Specimen) -> Reveal:
    seen = {bits: lab.likeliest(start_scheme(bits), found.of) for bits in BITS}
    broken = next((bits for bits in BITS if not seen[bits].same_first), None)
    layer = lab.default_layer()
    last = max(BITS[-1], broken or BITS[-1])
    row = lab.row(layer, start_scheme(last), SHARE)
    if broken is None:
        truth, answer = GUESS.of(NEVER), "It never breaks: even 4 values write the same word."
    else:
        word = code(seen[broken].likeliest_hat[0].text)
        truth, answer = GUESS.of(f"at {broken}"), f"At **{broken} bits**: {word} takes its place."
    why = (
        f"Each weight jumps to the nearest of {len(row.levels)} levels, {row.step:.2g} apart in the row drawn below. "
        f"{row.zeros:.0%} of its {row.columns:,} weights become exactly 0."
    )
    eight, four = seen[8].kl, seen[4].kl
    twist = f"The word is a coarse judge: the whole distribution moved by {eight:.2g} nats at 8 bits, {four:.2g} at 4."
    words, levels = next_words(seen), row_on_levels(row)
    return Reveal(
        truth,
        answer,
        why,
        (
            Shown(words, f"the next word by bits: {answer}".replace("*", "").replace("`", ""), 235),
            Shown(levels, f"{short(layer)}, row {row.row}: {len(row.levels)} levels {row.step:.2g} apart", 225),
        ),
        twist,
        more=("app.py", {"bits": last, "prompt": found.of, "layer": layer}),
    )


def next_words(seen: dict[int, NextTokens]) -> go.Figure:
    """A bar a number of bits: how sure the quantized model is of the float model's word; above it what it writes."""
    fig = picture("bits a weight", "sure of the first word", 235, showlegend=False, bargap=0.35)
    fig.add_trace(
        go.Bar(
            x=[f"{bits}" for bits in seen],
            y=[one.likeliest[0].probability_hat for one in seen.values()],
            marker={"color": [GREEN if one.same_first else VERMILION for one in seen.values()]},
            text=[plotted(one.likeliest_hat[0].text) for one in seen.values()],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x} bits: the float model's word has %{y:.1%}; it writes %{text}<extra></extra>",
        )
    )
    fig.update_xaxes(type="category")
    fig.update_yaxes(
        tickformat=".0%", range=[0, 1.25 * max(0.05, *(one.likeliest[0].probability_hat for one in seen.values()))]
    )
    return fig


def row_on_levels(row: RowStudy) -> go.Figure:
    columns = np.arange(row.first, row.first + len(row.weight))
    fig = picture("input", "weight", 225, showlegend=True, legend={"orientation": "h", "y": 1.2, "x": 0})
    for level in row.levels.tolist():
        fig.add_hline(level, line={"color": token("slate", 0.35), "width": 1})
    gap = np.full(len(columns), np.nan)
    ways = np.stack([row.weight.numpy(), row.restored.numpy(), gap], 1).ravel()
    fig.add_trace(
        go.Scatter(
            x=np.repeat(columns, 3), y=ways, mode="lines", line={"color": VERMILION, "width": 2}, name="error",
            hoverinfo="skip",
        )
    )  # fmt: skip
    for values, name, marker in (
        (row.restored, "its level", {"color": GREEN, "symbol": "diamond", "size": 6}),
        (row.weight, "weight", {"color": INK, "symbol": "circle-open", "size": 7}),
    ):
        fig.add_trace(go.Scatter(x=columns, y=values.numpy(), mode="markers", name=name, marker=marker))
    reach = 1.15 * float(row.weight.abs().max()) or 1.0
    fig.update_yaxes(range=[-reach, reach], showgrid=False, zerolinecolor=SLATE)
    return fig


SCENE = Scene(
    "sixteen",
    "16 values",
    "At how many bits does the sentence break?",
    find,
    reveal,
    slow="The sentence at 8, 7, 6 ... 2 bits",
)
