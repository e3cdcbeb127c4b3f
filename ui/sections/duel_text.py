"""The Scheme duel on the text itself: the tokens tinted, the worst ones, and both models writing on."""

from __future__ import annotations

import streamlit as st
import torch

from quantcore.lab.lab import Lab
from quantcore.lab.start import PROMPTS
from quantcore.lab.whole import WRITTEN
from quantcore.measure.duel import Duel, short_label
from quantcore.numbers.digits import digits
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import duel as figures
from ui.words import duel as duel_words
from ui.words import tokens as token_view
from ui.words.names import named

WORST = 10


def open_token(place: int, count: int | None = None) -> None:
    """Move the slider to a token, to the first one where a text of `count` has no such place; also a callback."""
    st.session_state["token"] = place if count is None or place < count else 0


@st.fragment
def token_part(found: Duel, scheme: str, lab: Lab, reading: str) -> None:
    """KL along the text, and the window of one token: who would have written what, and all of it tinted. Its slider
    moves nothing else on the page, so nothing else runs again."""
    ids, kl = lab.tokens(reading), found.scores[scheme].kl
    flat, targets = kl.flatten(), lab.decode.all(ids[:, 1:].flatten().tolist())
    order = flat.argsort(descending=True)[:WORST].tolist()
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.markdown("Worst tokens, KL")
        for n, place in enumerate(order):
            label = f"`{token_view.quoted(targets[place])}` {float(flat[place]):.1f}"
            st.button(label, on_click=open_token, args=(place,), key=f"worst_{n + 1}")
    open_token(st.session_state.pop("_open_token", st.session_state.get("token", order[0])), len(flat))
    at = controls.slide("Token", 0, len(flat) - 1, order[0], "token")
    window, place = divmod(at, kl.shape[1])
    shown = window * kl.shape[1], (window + 1) * kl.shape[1]
    point = chart(
        figures.along_the_text(flat.numpy(), targets, figures.colours(found.reports)[scheme], at, shown),
        key="along",
        alt=f"KL along {len(flat)} tokens; the largest is {float(flat.max()):.2f} nats at {targets[order[0]]!r}",
        on_click=True,
    )
    if point and point.get("x") not in ("", None, at):
        st.session_state["_open_token"] = int(point["x"])
        st.rerun()
    st.caption(duel_words.window_words(window + 1, len(ids)))
    st.markdown(
        f"Token {at}, `{token_view.quoted(targets[at])}`, is outlined: KL **{digits(float(flat[at]))}** nats. In its "
        "place they would have written"
    )
    likeliest = torch.cat([one.likeliest[window].flatten() for one in (found.float_scores, found.scores[scheme])])
    lab.decode.all(likeliest.tolist())  # in one question: the table and the tooltips ask token by token
    st.table(duel_words.guesses(lab.decode, found, scheme, window, place))
    hovers = duel_words.hovers(lab.decode, found, scheme, window)
    tints = [None, *kl[window].tolist()]
    st.html(token_view.tinted(lab.decode.all(ids[window].tolist()), tints, hovers, place + 1))
    controls.end()


def generation_part(scheme: str, lab: Lab, calibration: str) -> None:
    """Both models write on from one prompt."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        prompt = controls.line("Prompt", PROMPTS[0], "prompt", max_chars=1000)
        seed = controls.slide("Seed (0: greedy, the likeliest token each time)", 0, 20, 0, "seed")
    title = f"{WRITTEN} tokens of float and {short_label(scheme)}"
    written = answer(title, lab, Lab.write_on, scheme, prompt, WRITTEN, seed or None, calibration).whole
    if written is None:
        return
    parted = written.parted
    st.markdown(
        "Both wrote the same."
        if parted is None
        else f"They part at token **{parted + 1}**, outlined; up to there both wrote the same."
    )
    with st.grid(2, min_column_width=380, border=True):
        for name, texts in (("float", written.texts), (named(scheme), written.texts_hat)):
            with st.container():
                st.markdown(f"**{name}**")
                st.html(token_view.split_at(texts, parted))
