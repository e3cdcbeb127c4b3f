"""Which scheme would you ship? Two to six of them on the whole model, on the same text, with error bars."""

import pandas as pd
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.lab.report import duel_document, duel_table
from quantcore.measure.duel import Duel, short_label, texts_of
from quantcore.text.reading import EVALUATE, Reading
from ui import frame, job_view
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import duel as figures
from ui.ready import DUEL_TOKENS, default_duel
from ui.scheme_builder import scheme_editor
from ui.sections.downloads import downloads
from ui.sections.duel_text import generation_part, token_part
from ui.sidebar import Choice
from ui.words import duel as duel_words

TITLE = "Scheme duel"
SECTION = "Lab"
MOST = 6
ALL_KINDS, SIDEBAR = "all five kinds", "the sidebar's"

LOOK_FOR = (
    "All schemes read the same tokens as the float model. Perplexity asks how well the text is predicted, KL how far "
    "the predictions moved; KL sees differences that perplexity hides. An interval that holds 0 means: not told apart."
)
TRIES: frame.Tries = [
    ("8 bits: int or float", {"duel": "W8A8\nFP8\nFP8_DYNAMIC"}),
    ("who shares a scale, at 4 bits", {"duel": "w:int4/tensor\nw:int4/channel\nw:int4/group128\nw:int4/group32"}),
    ("one layer kind spared", {"duel": "w:int3/group128\nw:int3/group128@down_proj=w:int8/channel\nw:int4/group128"}),
]


def add_line(text: str) -> None:
    """A scheme from the builder onto the list; a callback."""
    st.session_state["duel"] = f"{st.session_state['duel'].rstrip()}\n{text}"


def asked_for(choice: Choice) -> tuple[tuple[str, ...], str]:
    """The list of schemes, one a line, with a builder that adds to it; and what is read.

    Raises: ValueError for too few schemes or too many."""
    default = controls.follow_default("duel", default_duel(choice.lab))
    with st.grid(2, min_column_width=430):
        with st.container():
            text = controls.lines("Schemes, one a line (two to six)", default, "duel", height=150)
        with st.container():
            with st.container(horizontal=True, vertical_alignment="bottom"):
                limit = controls.pick("Tokens", DUEL_TOKENS, DUEL_TOKENS[0], "tokens")
                where = controls.pick("Text", [ALL_KINDS, SIDEBAR], ALL_KINDS, "from")
            builder = st.expander("Build a line with menus, or take a preset")
        with builder, frame.problems():
            scheme = scheme_editor("**New line**", "w:int4/group32/asym", "new")
            st.button("Add it to the list", on_click=add_line, args=(str(scheme),), key="add")
            st.caption("Mixed precision: `W4A16@down_proj=W8A16@layers.0=float`, the last exception that fits decides.")
    schemes = texts_of([line for line in text.splitlines() if line.strip()])
    if not 2 <= len(schemes) <= MOST:
        raise ValueError(f"the list has {len(schemes)} different schemes; a duel takes two to {MOST}")
    read = EVALUATE if where == ALL_KINDS else EVALUATE.of(Reading.parse(choice.reading))
    return tuple(schemes), str(read.at_most(limit))


def show(found: Duel, so_far: str) -> None:
    """The pictures; of a duel under way (`so_far` says how far) those for which there are figures."""
    if found.reports:
        words, table = duel_words.verdict(found), duel_table(found)
        st.markdown(f"{so_far} {words}".strip())
        st.dataframe(duel_words.written(table), width="stretch")
        st.caption(duel_words.MARKS)
        with st.grid(2, min_column_width=430):
            chart(figures.pareto(found), key="pareto", alt=words.replace("*", ""))
            with st.container():
                st.markdown(duel_words.TOLD_APART)
                st.table(duel_words.pairs(found))
        frame.numbers(pd.DataFrame(table.records()), "duel")
    chart(figures.layer_errors(found), key="layer_errors", alt=f"worst layer: {duel_words.worst_layers(found)}")
    if notes := duel_words.left_float(found):
        st.caption(notes)


def show_text(found: Duel, choice: Choice, reading: str) -> None:
    """What reads the text itself, of a duel that is whole; and the ways to leave with it."""
    lab, texts = choice.lab, list(found.reports)
    frame.take_links({short_label(text): text for text in texts})
    st.header("On the text itself")
    default = max(texts, key=lambda text: found.reports[text].kl)
    scheme = controls.select("Scheme", texts, default, "read")
    token_part(found, scheme, lab, reading)
    st.header("Writing on, side by side")
    generation_part(scheme, lab, choice.calibration)
    downloads(lambda: duel_document(found, lab.facts(texts, reading, choice.calibration)), "duel")


def body(choice: Choice) -> None:
    schemes, reading = asked_for(choice)
    lab, asked = choice.lab, (reading, choice.calibration)
    tokens = lab.tokens(reading).numel()
    with st.container():
        found = answer(f"{len(schemes)} schemes on {tokens:,} tokens", lab, Lab.duel, schemes, *asked)
    job_view.kept_notice()
    if found.whole is not None:
        show(found.whole, "")
        show_text(found.whole, choice, reading)
        return
    kept = lab.kept_schemes(schemes, *asked)
    known = lab.kept_duel(kept, *asked) if len(kept) > 1 else found.so_far
    if known is not None:
        show(known, duel_words.so_far(known, tokens))


frame.show(__file__, "Which scheme would you ship?", LOOK_FOR, TRIES, body)
