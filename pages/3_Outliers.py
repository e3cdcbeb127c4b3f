"""Where are the outliers, and who pays? The input of one real layer, its loudest channels, and two remedies."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.numbers.digits import digits
from quantcore.studies.outliers import CLIPS, NO_CLIP, ChannelStudy, Payer, keeps_of
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import outliers as figures
from ui.sections.cache import cache_part
from ui.sections.treatment import treatment_part
from ui.settled import Question, settled
from ui.sidebar import Choice, open_layer
from ui.words import outliers as outlier_words
from ui.words.glossary import defined
from ui.words.published import FINDINGS

TITLE = "Outliers"
SECTION = "Learn"
FORMATS = ["int8", "int6", "int4", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1"]

LOOK_FOR = (
    "A scale must reach the largest value that shares it, so one loud channel or token costs all others precision. "
    "Open a layer in the map, find its walls in the surface, see who loses, then clip them or leave them in float."
)
PATTERNS = {
    "channel": "A channel that is loud on many tokens stretches each token's own scale too: take it out.",
    "token": "A token that is loud alone spoils a scale that it shares: give each token its own.",
    "scattered": "Neither one channel nor one token stands out: the large values are scattered.",
}
COLUMNS: dict[str, Any] = {
    "absmax": st.column_config.NumberColumn("largest |x|", format="%.4g"),
    "over_median": st.column_config.NumberColumn("largest / median channel's", format="%.1f"),
    "kurtosis": st.column_config.NumberColumn("kurtosis (3: normal)", format="%.1f", help=defined("kurtosis")),
    "token": "on token",
    "share_above_half": st.column_config.NumberColumn("tokens above half of it", format="%.1f%%"),
}
SHARED = ("one scale for all", "a scale per token")


def tries(choice: Choice) -> frame.Tries:
    """On the loaded model: no rotation where its norms do not let it pass."""
    return [
        ("4 bits: who is left?", {"act": "int4"}),
        ("spare the loudest channel", {"keep": 1}),
        ("clip, for the median token", {"clip": "p99.97", "watch": "median token"}),
        ("smooth the wall", {"treat": "smooth", "alpha": 0.7}),
        *([("turn the wall into a plain", {"treat": "rotate=hadamard"})] * choice.lab.can_turn),
    ]


def asked_of(layer: str, fmt: str, reading: str) -> list[Question]:
    """What the pictures ask, the longest last."""
    return [
        (Lab.outlier_map, reading),
        (Lab.channels, layer, reading),
        (Lab.payers, layer, fmt, reading),
        (Lab.remedies, layer, fmt, reading),
    ]


def body(choice: Choice) -> None:
    with frame.controls_in_sight():
        fmt = controls.pick("Format of the activations", FORMATS, "int8", "act")
        log = controls.pick("Height of the surface", ["linear", "log"], "linear", "height") == "log"
    wanted = (choice.layer, fmt, choice.reading)
    drawn = settled("outliers", f"Outliers of {choice.layer}, {fmt}", choice.lab, wanted, asked_of)
    if drawn is None:
        return
    layer, fmt, reading = drawn
    choice = replace(choice, layer=layer, reading=reading)
    study = choice.lab.channels(choice.layer, choice.reading)
    payers = choice.lab.payers(choice.layer, fmt, choice.reading)
    frame.headline(outlier_words.headline(study, payers, fmt))
    pictures = still_pictures(choice, fmt, log)
    loudest(choice, study, payers, pictures)
    st.header("Who pays")
    who_pays(study, payers, fmt, pictures)
    st.header("Move it before rounding")
    treatment_part(choice, fmt, log)
    with frame.opened("What papers found, and what is measured here", "published") as is_open:
        if is_open:
            published = pd.DataFrame([one.row for one in FINDINGS])
            st.dataframe(published, hide_index=True, width="stretch", column_config=frame.heads(published))
    st.header("Two remedies")
    remedies(choice, fmt, len(study.channel_absmax))
    cache_part(choice, log)


def still_pictures(choice: Choice, fmt: str, log: bool) -> tuple[go.Figure, ...]:
    """The map of layers, the surface, the errors of tokens and of channels: no remedy moves them, and to build them
    takes half of a rerun."""
    lab, layer, reading = choice.lab, choice.layer, choice.reading

    def built() -> tuple[go.Figure, ...]:
        study, texts, payers = (
            lab.channels(layer, reading),
            lab.token_texts(reading, layer),
            lab.payers(layer, fmt, reading),
        )
        return (
            figures.layer_map(lab.outlier_map(reading), layer),
            figures.surface(lab.inputs(layer, reading), study, texts, log),
            figures.token_errors(payers, study, texts),
            figures.channel_errors(payers, study),
        )

    return lab.remember(("outlier pictures", layer, fmt, reading, log), 32, built)


def loudest(choice: Choice, study: ChannelStudy, payers: Sequence[Payer], pictures: tuple[go.Figure, ...]) -> None:
    """The map, the surface and the table of the loudest channels."""
    lab, top, texts = choice.lab, study.top[0], choice.lab.token_texts(choice.reading, choice.layer)
    frame.metrics(
        {
            "Largest / median channel": outlier_words.ratio_text(study.ratio),
            "Largest / median token": outlier_words.ratio_text(study.token_ratio),
            "Input SQNR, median, shared scale": f"{float(payers[0].token_sqnr_db.median()):z.1f} dB",
            "Input SQNR, median, own scale": f"{float(payers[1].token_sqnr_db.median()):z.1f} dB",
        }
    )
    with st.grid(2, min_column_width=430):
        clicked = chart(
            pictures[0],
            key="layer_map",
            alt=f"largest over median channel of {len(lab.layers())} layers; {choice.layer}: {study.ratio:.1f}",
            on_click=True,
        )
        chart(
            pictures[1],
            key="surface",
            alt=f"the highest wall is channel {top.channel} with {digits(top.absmax)} on token {top.token}",
        )
    if clicked and clicked.get("customdata") not in ("", None, choice.layer):
        open_layer(clicked["customdata"])
    firsts = sum(row.token % lab.tokens(choice.reading).shape[1] == 0 for row in study.top)
    st.markdown(
        f"In `{choice.layer}` channel **{top.channel}** reaches **{digits(top.absmax)}**, on token {top.token} "
        f"`` '{texts[top.token]}' ``, and is above half of that on **{round(top.share_above_half * len(texts))}** of "
        f"{len(texts)} tokens. On the first token of a window lie {firsts} of the {len(study.top)} highest peaks. "
        f"{PATTERNS[study.pattern]}"
    )
    table = pd.DataFrame(study.top)
    table["share_above_half"] *= 100
    table.insert(5, "token text", [texts[row.token] for row in study.top])
    st.dataframe(table, hide_index=True, width="stretch", column_config=COLUMNS)


def who_pays(study: ChannelStudy, payers: Sequence[Payer], fmt: str, pictures: tuple[go.Figure, ...]) -> None:
    """What one scale for all costs the tokens and the channels that are not loud."""
    tensor, token = payers[0], payers[1]
    cost_db = float((token.token_sqnr_db - tensor.token_sqnr_db).median())
    st.markdown(
        f"One scale for all leaves the median channel **{tensor.median_codes}** of the {tensor.codes} values of "
        f"`{fmt}`, a scale per token **{token.median_codes}**. As a whole the input keeps {tensor.input_sqnr_db:.1f} "
        f"against {token.input_sqnr_db:z.1f} dB; the median token's input pays **{cost_db:z.1f} dB** for sharing a "
        f"scale with token {int(study.token_absmax.argmax())}."
    )
    with st.grid(2, min_column_width=430):
        chart(
            pictures[2],
            key="token_errors",
            alt=f"sharing one scale costs the median token {cost_db:z.1f} dB",
        )
        chart(
            pictures[3],
            key="channel_errors",
            alt=f"with one scale the median channel keeps {float(tensor.channel_sqnr_db.median()):z.1f} dB",
        )


def remedies(choice: Choice, fmt: str, width: int) -> None:
    """Clip, keep channels in float, or both."""
    curves = choice.lab.remedies(choice.layer, fmt, choice.reading)
    before, spared, clipped = curves.at(NO_CLIP, 0), curves.at(NO_CLIP, 1), curves.kindest_clip("tensor")
    st.markdown(
        f"With one scale for all, clipping takes the median token's input from {before[0].token_sqnr_db:.1f} to at "
        f"best **{clipped.token_sqnr_db:z.1f} dB** ({clipped.clip}), and the output from "
        f"{before[0].output_sqnr_db:.1f} to **{clipped.output_sqnr_db:z.1f} dB**. One channel kept in float "
        f"takes the median token's input to {spared[0].token_sqnr_db:z.1f} dB and the "
        f"output to **{spared[0].output_sqnr_db:z.1f} dB**, for "
        f"{spared[0].bits_per_number:.2f} bits a number."
    )
    with st.grid(3, min_column_width=260):
        clip = controls.steps("Clip beyond this percentile, at either end", CLIPS, NO_CLIP, "clip")
        keep = controls.steps("Loudest channels kept in float", keeps_of(width), 0, "keep")
        watch = controls.pick("Watch the", list(figures.WATCH), "output", "watch")
    with st.grid(2, min_column_width=430):
        chart(
            figures.clip_curve(curves, curves.at(clip, 0), watch),
            key="clip_curve",
            alt=f"kindest to the median token: {clipped.clip}; chosen: {clip}",
        )
        chart(
            figures.keep_curve(curves, curves.at(NO_CLIP, keep), watch),
            key="keep_curve",
            alt=f"output with one channel in float: {spared[0].output_sqnr_db:z.1f} dB; chosen: {keep}",
        )
    both = curves.at(clip, keep) or choice.lab.remedy(choice.layer, fmt, clip, keep, choice.reading)
    looked, every = curves.outputs, curves.all_outputs
    part = "" if looked == every else f"; output on {looked:,} of {every:,} channels"
    st.markdown(
        f"Both together: clip **{clip}**, **{keep}** of {width} channels in {FLOAT_BITS} bits, so "
        f"{both[0].bits_per_number:.2f} bits a number; in brackets the gain over no remedy{part}."
    )
    for row, old, who in zip(both, before, SHARED, strict=True):
        gains = {what: figures.gain_text(getattr(row, at), getattr(old, at)) for what, at in figures.WATCH.items()}
        frame.metrics({f"{what.capitalize()}, {who}": gain for what, gain in gains.items()})
    rows = {"chosen": both, "clip": curves.clips, "keep": curves.keeps}
    frame.numbers(pd.DataFrame([{"curve": name, **asdict(row)} for name in rows for row in rows[name]]), "outliers")


frame.show(__file__, "Where are the outliers, and who pays?", LOOK_FOR, tries, body, first=Lab.layer_with_walls)
