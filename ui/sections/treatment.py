"""The layer before and after a transform of the model: its surface, who pays, what the weights take over, the very next
tokens."""

from __future__ import annotations

import streamlit as st

from quantcore.lab.lab import Lab
from ui import frame
from ui import widgets as controls
from ui.components.chart import Hand, chart
from ui.figures import outliers as figures
from ui.figures import treatment
from ui.figures.home import next_token_picture
from ui.settled import Question, settled
from ui.sidebar import Choice
from ui.words.outliers import ratio_text
from ui.words.start import tokens_words

TREATMENTS = ["none", "smooth", "rotate=hadamard", "rotate=hadamard/r4", "rotate=random", "quip=hadamard", "awq"]
LET_GO = "_alpha_let_go"  # the step at which the hand left the slider below the surface
ALPHAS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def treatment_part(choice: Choice, fmt: str, log: bool) -> None:
    """The layer before and after a transform of the model, which computes the same."""
    if LET_GO in st.session_state:
        st.session_state["alpha"] = st.session_state.pop(LET_GO)
    with st.container(horizontal=True):
        kind = controls.pick("Transform", TREATMENTS, "none", "treat")
        alpha = (
            controls.steps("alpha: what the weights take over", ALPHAS, 0.5, "alpha", width=320)
            if kind == "smooth"
            else 0.5
        )
    if kind == "none":
        st.markdown(
            "The field's remedies move outliers before anything is rounded, and leave what the model computes: "
            "`smooth` divides loud channels and multiplies the weights behind them, `rotate` spreads each channel over "
            "all, `quip` turns what enters each layer as it comes, `awq` tries scales for the weights. Choose one: it "
            "is done to the whole model, for real."
        )
        return
    words = f"smooth={alpha:g}/all" if kind == "smooth" else kind
    wanted = (choice.layer, words, fmt, choice.reading)
    drawn = settled("treatment", f"{words} on {choice.layer}", choice.lab, wanted, _asked_of)
    if drawn is None:
        return
    layer, words, fmt, reading = drawn
    lab, study = choice.lab, choice.lab.treatment(layer, words, fmt, reading)
    before, after = study.before, study.after
    gains = {
        "Largest / median channel": ratio_text(after.channels.ratio),
        "Largest / median weight": ratio_text(after.weight_ratio),
        "Input SQNR, median, after": f"{float(after.payers[0].token_sqnr_db.median()):.1f} dB",
        f"Output, all in {fmt}": figures.gain_text(after.layer.output.sqnr_db, before.layer.output.sqnr_db),
    }
    frame.metrics(gains)
    _both_surfaces(lab, (layer, words, fmt, reading), log)
    chart(
        treatment.difficulty(study, words),
        key="difficulty",
        alt=f"largest over median channel from {before.channels.ratio:.1f} to {after.channels.ratio:.1f}, "
        f"of the weights from {before.weight_ratio:.1f} to {after.weight_ratio:.1f}",
    )
    tensor, token = (
        float(there.token_sqnr_db.median() - here.token_sqnr_db.median())
        for here, there in zip(before.payers[:2], after.payers[:2], strict=True)
    )
    st.markdown(
        f"The loudest channel goes from **{before.channels.ratio:.1f}** to **{after.channels.ratio:.1f}** times the "
        f"median one, the weights' from {before.weight_ratio:.1f} to {after.weight_ratio:.1f}. The median token's "
        f"input gains **{tensor:+.1f} dB** under one scale for all, {token:+.1f} dB under a scale of its own; weights: "
        f"{before.layer.weight.sqnr_db:.1f} to {after.layer.weight.sqnr_db:.1f} dB. For the whole model write the "
        f"word behind a scheme, as in `W8A8,{words}`: in a duel, the layer lab, a checkpoint."
    )
    pictures = treatment.both_token_errors(study, lab.token_texts(reading, layer), words)
    with st.grid(2, min_column_width=430):
        for key, side, picture in zip(("pay_before", "pay_after"), (before, after), pictures, strict=True):
            said = ", ".join(f"{float(one.token_sqnr_db.median()):.1f} dB per {one.granularity}" for one in side.payers)
            chart(picture, key=key, alt=f"{picture.layout.title.text}: the median token keeps {said}")
    with frame.opened("The very next tokens, before and after", "next") as is_open:
        if is_open:
            _next_tokens(lab, f"w:{fmt}/channel,a:{fmt}/tensor/dynamic", words)


def _asked_of(layer: str, words: str, fmt: str, reading: str) -> list[Question]:
    """What the treated layer asks; smoothing also what every alpha would do."""
    asked: list[Question] = [(Lab.treatment, layer, words, fmt, reading)]
    return asked + [(Lab.smoothing, layer, reading)] * words.startswith("smooth")


def _both_surfaces(lab: Lab, drawn: tuple[str, str, str, str], log: bool) -> None:
    """Before and after under one camera; alpha moves the second while it is dragged."""
    layer, words, fmt, reading = drawn
    study, texts = lab.treatment(layer, words, fmt, reading), lab.token_texts(reading, layer)
    before, after = study.before, study.after
    x, reach = lab.inputs(layer, reading), float(before.channels.channel_absmax.max())
    hand = None
    if words.startswith("smooth"):
        alpha = float(words.split("=")[1].split("/")[0])
        scales = {_after(f"smooth={one:g}/all"): lab.smoothing(layer, reading).scales(one) for one in ALPHAS}
        frames = figures.dragged(x, scales, after.channels, log)
        hand = Hand("alpha", [f"{one:g}" for one in ALPHAS], ALPHAS.index(alpha), frames)
    let_go = None
    with st.grid(2, min_column_width=430):
        for key, side, shown, title in (
            ("surface_before", before, x, "|x| before"),
            ("surface_after", after, lab.treated_layer(layer, words, reading)[0], _after(words)),
        ):
            let_go = chart(
                figures.surface(shown, side.channels, texts, log, title, reach),
                key=key,
                alt=f"{title}: the highest is {float(side.channels.channel_absmax.max()):.3g}",
                link="treatment",
                hand=hand if side is after else None,
            )
    if let_go and "step" in let_go and float(let_go["step"]) != st.session_state.get("alpha"):
        st.session_state[LET_GO] = float(let_go["step"])
        st.rerun()


def _after(words: str) -> str:
    """The title of the second surface."""
    return f"|x| after {words}, same height"


def _next_tokens(lab: Lab, plain: str, words: str) -> None:
    """What the whole model would write next, its weights and inputs rounded, as it was and treated."""
    schemes = (plain, f"{plain},{words}")
    drawn = settled(
        "next tokens", f"The model under {words}", lab, schemes, lambda *both: [(Lab.written_next, one) for one in both]
    )
    if drawn is None:
        return
    with st.grid(2, min_column_width=430):
        for key, scheme, name in zip(("next_before", "next_after"), drawn, ("as it was", words), strict=True):
            report = lab.written_next(scheme)
            said = tokens_words(report, name)
            with st.container():
                chart(next_token_picture(report, name), key=key, alt=said.replace("*", ""))
                st.markdown(said)
