"""Which scheme would you ship? Two to six of them on the whole model, on the same text, with error bars."""

from dataclasses import dataclass

import numpy as np
import streamlit as st

from quantcore.measure.duel import Duel, duel, short_label, texts_of
from quantcore.studies.generation import Written, write_on
from ui import cached, frame, job_view, python_code
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import duel as figures
from ui.scheme_builder import fitting_group, follow_default, scheme_editor
from ui.take_link import take_links
from ui.words import duel as duel_words
from ui.words import tokens as token_view

PATH = "pages/7_Scheme_duel.py"
DEFAULT = "W8A8\n{w4}\nw:int4/channel\nw:int3/group{group}"  # the group is the largest that fits the model
MOST, WORST, WRITTEN = 6, 10, 48
TOKENS = (2560, 5120, 16384)
ALL_KINDS, SIDEBAR = "all five kinds", "the sidebar's"
PROMPT = "Once upon a time, there was a little girl named"

LOOK_FOR = (
    "All schemes read the same tokens as the float model. Perplexity asks how well the text is predicted, KL how far "
    "the predictions moved; KL sees differences that perplexity hides. An interval that holds 0 means: not told apart."
)
TRIES = [
    ("8 bits: int or float", {"duel": "W8A8\nFP8\nFP8_DYNAMIC"}),
    ("who shares a scale, at 4 bits", {"duel": "w:int4/tensor\nw:int4/channel\nw:int4/group128\nw:int4/group32"}),
    ("one layer kind spared", {"duel": "w:int3/group128\nw:int3/group128@down_proj=w:int8/channel\nw:int4/group128"}),
]


def add_line(text: str) -> None:
    """A scheme from the builder onto the list; a callback."""
    st.session_state["duel"] = f"{st.session_state['duel'].rstrip()}\n{text}"


def open_token(place: int, count: int | None = None) -> None:
    """Move the slider to a token, to the first one where a text of `count` has no such place; also a callback."""
    st.session_state["token"] = place if count is None or place < count else 0


def asked_for(choice: controls.Choice) -> tuple[list[str], int, str]:
    """The list of schemes, one a line, with a builder that adds to it; how many tokens are read, of which text.

    Raises: ValueError for too few schemes or too many."""
    group = fitting_group(cached.layers(choice.model_id, choice.device))
    default = follow_default(
        "duel", DEFAULT.format(w4="W4A16" if group == 128 else f"w:int4/group{group}", group=group)
    )
    with st.grid(2, min_column_width=430):
        with st.container():
            text = controls.lines("Schemes, one a line (two to six)", default, "duel", height=150)
        with st.container():
            with st.container(horizontal=True, vertical_alignment="bottom"):
                limit = controls.pick("Tokens", TOKENS, TOKENS[0], "tokens")
                where = controls.pick("Text", [ALL_KINDS, SIDEBAR], ALL_KINDS, "from")
            builder = st.expander("Build a line with menus, or take a preset")
        with builder, frame.problems():
            scheme = scheme_editor("**New line**", "w:int4/group32/asym", "new")
            st.button("Add it to the list", on_click=add_line, args=(str(scheme),), key="add")
            st.caption("Mixed precision: `W4A16@down_proj=W8A16@layers.0=float`, the last exception that fits decides.")
    schemes = texts_of([line for line in text.splitlines() if line.strip()])
    if not 2 <= len(schemes) <= MOST:
        raise ValueError(f"the list has {len(schemes)} different schemes; a duel takes two to {MOST}")
    return schemes, limit, "evaluation/all" if where == ALL_KINDS else choice.text_id


def token_part(found: Duel, scheme: str, choice: controls.Choice, text_id: str, limit: int) -> None:
    """The text itself, tinted; the worst tokens; a window written out with both models' likeliest tokens."""
    decode = cached.decoder(choice.model_id, choice.device)
    ids = cached.duel_tokens(choice.model_id, choice.device, text_id, limit)
    scores, floats = found.scores[scheme], found.float_scores
    width = scores.kl.shape[1]
    flat = scores.kl.flatten()
    order = flat.argsort(descending=True)[:WORST].tolist()
    targets = [decode(t) for t in ids[:, 1:].flatten().tolist()]
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.markdown("Worst tokens, KL")
        for n, place in enumerate(order):
            label = f"`{token_view.quoted(targets[place])}` {float(flat[place]):.1f}"
            st.button(label, on_click=open_token, args=(place,), key=f"worst_{n + 1}")
    open_token(st.session_state.pop("_open_token", st.session_state.get("token", order[0])), len(flat))
    at = controls.slide("Token", 0, len(flat) - 1, order[0], "token")
    window = at // width
    point = chart(
        figures.along_the_text(
            flat.numpy(), targets, figures.colours(found.reports)[scheme], at, (window * width, (window + 1) * width)
        ),
        key="along",
        alt=f"KL along {len(flat)} tokens; the largest is {float(flat.max()):.2f} nats at {targets[order[0]]!r}",
        on_click=True,
    )
    if point and point.get("x") not in ("", None, at):
        st.session_state["_open_token"] = int(point["x"])
        st.rerun()
    row = ids[window].tolist()
    hovers = ["the first token: nothing before it, nothing to predict"] + [
        duel_words.hover(
            decode,
            float(scores.kl[window, t]),
            floats.likeliest[window, t],
            floats.probabilities[window, t],
            scores.likeliest[window, t],
            scores.probabilities[window, t],
        )
        for t in range(width)
    ]
    st.caption(
        f"Window {window + 1} of {len(ids)}. The tint of a token is the KL of the two predictions of it "
        f"({token_view.FAINT:g} nats: none, {token_view.FULL:g}: full); hold the pointer on a token for the five "
        "likeliest of both models."
    )
    st.markdown(
        f"Token {at}, `{token_view.quoted(targets[at])}`, is outlined: KL **{float(flat[at]):.3g}** nats. In its place "
        "they would have written"
    )
    st.table(
        duel_words.guesses(
            decode,
            [
                (name, one.likeliest[window, at % width], one.probabilities[window, at % width])
                for name, one in (("float", floats), (short_label(scheme), scores))
            ],
        )
    )
    kl = [None, *scores.kl[window].tolist()]
    st.html(token_view.tinted([decode(one) for one in row], kl, hovers, at % width + 1))


def generation_part(scheme: str, choice: controls.Choice) -> None:
    """Both models write on from one prompt."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        prompt = controls.line("Prompt", PROMPT, "prompt", max_chars=1000)
        seed = controls.slide("Seed (0: greedy, the likeliest token each time)", 0, 20, 0, "seed")
    loaded = cached.model(choice.model_id, choice.device)
    calibration = cached.tokens(choice.model_id, choice.device, choice.calibration)

    def work(tell: job_view.Teller) -> Written:
        def writing(share: float, doing: str) -> None:
            tell((1 + share) / 2, doing)

        quantized = job_view.candidate(loaded, scheme, calibration, lambda share, doing: tell(share / 2, doing))
        return write_on(loaded, quantized, prompt, WRITTEN, seed or None, writing)

    key = f"write|{choice.model_id}|{choice.device}|{scheme}|{choice.calibration}|{seed}|{prompt}"
    written = job_view.result_of(choice.device, key, f"{WRITTEN} tokens of float and {short_label(scheme)}", work)
    if written is None:
        return
    parted = written.parted
    st.markdown(
        "Both wrote the same."
        if parted is None
        else f"They part at token **{parted + 1}**, outlined; up to there both wrote the same."
    )
    with st.grid(2, min_column_width=380, border=True):
        with st.container():
            st.markdown("**float**")
            st.html(token_view.split_at(written.texts, parted))
        with st.container():
            st.markdown(f"**{short_label(scheme)}**")
            st.html(token_view.split_at(written.texts_hat, parted))


@dataclass(frozen=True)
class Measured:
    """What there is of the duel: all of it, or (`whole` is False) what is known while a job measures the rest."""

    duel: Duel
    whole: bool


def measured(schemes: list[str], choice: controls.Choice, text_id: str, limit: int) -> Measured | None:
    """The duel from the store or from a job; while the job runs, the schemes in the store, or what the job has read."""
    asked = (choice.model_id, choice.device, text_id, limit)
    place = asked[:2]
    if (found := cached.kept_duel(*asked, tuple(schemes), choice.calibration)) is not None:
        return Measured(found, True)
    loaded, store, hashed = cached.model(*place), cached.store_for(text_id, choice.calibration), cached.hash_of(*place)
    texts = cached.duel_texts(*place, text_id, limit, choice.calibration)

    def work(tell: job_view.Teller) -> Duel:
        return duel(loaded, schemes, *texts, store, hashed, tell, tell.show)

    key = f"duel|{'|'.join(place)}|{text_id}|{limit}|{choice.calibration}|{'|'.join(schemes)}"
    title = f"{len(schemes)} schemes on {texts[0].numel():,} tokens"
    result: Duel | None = job_view.result_of(choice.device, key, title, work)
    if result is not None:
        return Measured(result, True)
    kept = cached.kept_schemes(*asked, tuple(schemes), choice.calibration)
    found = cached.kept_duel(*asked, kept, choice.calibration) if len(kept) > 1 else job_view.so_far(key)
    return None if found is None else Measured(found, False)


def code(choice: controls.Choice, schemes: list[str], text_id: str, limit: int) -> str:
    return python_code.program(f"""\
{python_code.texts(choice, text_id, limit)}found = duel(lm, {schemes!r}, tokens, calibration, Store())
for scheme, report in found.reports.items():
    print(f"{{scheme}}: KL {{report.kl:.4f}}, perplexity {{report.perplexity:.2f}}, {{report.bytes / 1e6:.2f}} MB")
print(found.kl_difference({schemes[0]!r}, {schemes[1]!r}))
""")


def show(found: Duel, choice: controls.Choice, text_id: str, limit: int, whole: bool) -> None:
    """The pictures; of a duel under way those for which there are figures, and what reads the text not yet."""
    if found.reports:
        words = duel_words.verdict(found)
        st.markdown(words if whole else f"{duel_words.so_far(found, limit)} {words}")
        st.dataframe(duel_words.written(found), width="stretch")
        st.caption(duel_words.MARKS)
        with st.grid(2, min_column_width=430):
            chart(figures.pareto(found), key="pareto", alt=words.replace("*", ""))
            with st.container():
                st.markdown(duel_words.TOLD_APART)
                st.table(duel_words.pairs(found))
        frame.numbers(duel_words.table(found), "duel")
    chart(
        figures.layer_errors(found),
        key="layer_errors",
        alt="worst layer: " + "; ".join(worst_layers(found)),
    )
    if notes := duel_words.left_float(found):
        st.caption(notes)
    if not whole:
        return
    take_links({short_label(text): text for text in found.reports})
    st.subheader("On the text itself")
    texts = list(found.reports)
    default = max(texts, key=lambda text: found.reports[text].kl)
    scheme = controls.select("Scheme", texts, default, "read")
    token_part(found, scheme, choice, text_id, limit)
    st.subheader("Writing on, side by side")
    generation_part(scheme, choice)
    st.download_button(
        "The whole duel as JSON",
        lambda: duel_words.as_json(found, choice.model_id, text_id),
        "duel.json",
        "application/json",
        on_click="ignore",
        key="json",
    )


def worst_layers(found: Duel) -> list[str]:
    said = []
    for text, rows in found.layers.items():
        measured = [row for row in rows if row.output_sqnr_db is not None and np.isfinite(row.output_sqnr_db)]
        if measured:
            worst = min(measured, key=lambda row: row.output_sqnr_db or 0.0)
            said.append(f"{short_label(text)}: {worst.name} with {worst.output_sqnr_db:.1f} dB")
    return said


def body(choice: controls.Choice) -> None:
    schemes, limit, text_id = asked_for(choice)
    frame.python(code(choice, schemes, text_id, limit))
    with st.container():
        found = measured(schemes, choice, text_id, limit)
    job_view.kept_notice()
    if found is not None:
        show(found.duel, choice, text_id, limit, found.whole)


frame.show("Which scheme would you ship?", LOOK_FOR, TRIES, PATH, body)
