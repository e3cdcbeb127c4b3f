"""The wall: a channel that is loud on one token after another."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.lab.bench import READ
from quantcore.lab.lab import Lab
from quantcore.model.layer_names import place_of
from quantcore.numbers.digits import digits
from ui.components.palette import BLUE, VERMILION
from ui.course.guess import Rows
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import fitted, picture, short
from ui.figures.outliers import surface

PEAKS, LAYERS = 4, 3
CHANNEL, LAYER = "Channel", "Layer"


def find(lab: Lab) -> Specimen | Missing:
    """One token of the wall's layer, and its highest peaks; that layer beside others of its block."""
    best = lab.wall()
    if best is None:
        return Missing(
            "No layer of this model has a channel three times as loud as the median one on tokens that are alike: no "
            "wall stands here. Trained models grow them; random weights do not."
        )
    study, x = lab.channels(best.layer), lab.inputs(best.layer, READ).abs().cpu()
    loud = study.top[0].channel
    token = int((x[:, loud] - study.top[0].absmax / 2).abs().argmin())  # a token on which the wall is half as high
    peaks = [channel for channel in x[token].argsort(descending=True).tolist() if channel != loud][: PEAKS - 1]
    channels = sorted([loud, *peaks])
    others = others_of(lab, best.layer)[:LAYERS]
    layers = sorted([best.layer, *others])
    guess = Rows(
        ((CHANNEL, tuple(map(str, channels))), (LAYER, tuple(short(one) for one in layers))) if others
        else ((CHANNEL, tuple(map(str, channels))),)
    )  # fmt: skip
    text = lab.token_texts(READ)[token]
    said = (
        f"One token, {text!r}, as it enters one of this model's layers: a few channels stand out. On the next token "
        "most peaks are gone, but one comes back again and again: a wall. Which channel, and which layer has the "
        f"wall that stands out most of {best.of}?"
    ).replace("`", "'").replace("$", "\\$")  # fmt: skip
    before = Shown(peaks_of(x[token].tolist(), channels), f"{PEAKS} peaks: channels {channels}", 330)
    return Specimen(said, guess, (before,), (best, loud))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    best, loud = found.of
    study, texts = lab.channels(best.layer), lab.token_texts(READ)
    top = study.top[0]
    chosen = (str(loud), short(best.layer))[: len(found.guess.rows)]  # type: ignore[union-attr]
    answer = f"Channel **{loud}**, {short(best.layer)}."
    why = (
        f"It reaches {digits(top.absmax)}, **{best.figure:.0f} times** the median channel, and is above half of that "
        f"on **{top.share_above_half:.0%}** of {len(texts)} tokens. A scale that a token's channels share is "
        "stretched on every token: only a scale for the channel, or leaving it in float, helps."
    )
    twist, giant = "", lab.giant()
    if giant is not None:
        token = int(lab.channels(giant.layer).token_absmax.argmax())
        twist = (
            f"Not every peak is a wall: {short(giant.layer)} has one {giant.figure:.0f} times the median token, but on "
            f"token {token} alone, a needle."
        )
    fig = fitted(surface(lab.inputs(best.layer, READ), study, texts, log=False), 460, title=None)
    said = f"the wall is channel {loud}, up to {digits(top.absmax)}"
    guess = found.guess
    assert isinstance(guess, Rows)
    more = "pages/3_Outliers.py", {"layer": best.layer}
    return Reveal(guess.of(*chosen), answer, why, (Shown(fig, said, 460),), twist, more=more)


def peaks_of(values: list[float], channels: list[int]) -> go.Figure:
    """One token's channels; the candidates are named."""
    fig = picture("channel", "|value|", 330, showlegend=False)
    fig.add_trace(go.Scatter(y=values, mode="lines", line={"color": BLUE, "width": 1.5}, hoverinfo="skip"))
    fig.add_trace(
        go.Scatter(
            x=channels,
            y=[values[channel] for channel in channels],
            mode="markers+text",
            text=[f"<b>{channel}</b>" for channel in channels],
            textposition="top center",
            marker={"color": VERMILION, "size": 9},
            hovertemplate="channel %{x}: %{y:.3g}<extra></extra>",
        )
    )
    fig.update_yaxes(range=[0, 1.2 * max(values)])
    return fig


def others_of(lab: Lab, layer: str) -> list[str]:
    """The other layers of the same block that read something else, one of each that read the same."""
    block, _ = place_of(layer)
    stats = lab.stats()
    mine = stats[layer].channel_absmax
    seen, found = [mine], list[str]()
    for name in lab.layers():
        here = stats[name].channel_absmax
        if place_of(name)[0] != block or here is None or any(here is one for one in seen):
            continue
        seen.append(here)
        found.append(name)
    return found


SCENE = Scene("wall", "The wall", "Which channel stays loud, and in which layer?", find, reveal)
