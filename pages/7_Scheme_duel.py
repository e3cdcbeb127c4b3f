"""Which of these schemes loses least? Two to six of them on the whole model, on the same text, with error bars."""

import pandas as pd
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.lab.report import duel_document, duel_table
from quantcore.measure.duel import Duel
from quantcore.measure.luck import Spread
from quantcore.model.layer_names import place_of
from quantcore.scheme.fitting import GROUPS
from quantcore.text.reading import EVALUATE
from ui import frame, job_view
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import duel as figures
from ui.ready import DEFAULT_DUEL, DUEL_TOKENS
from ui.scheme_builder import MENUS, grain_words, scheme_editor
from ui.sections.answers import answers_part
from ui.sections.downloads import downloads
from ui.sections.duel_text import generation_part, token_part
from ui.sections.luck import luck_part
from ui.sidebar import Choice
from ui.words import duel as duel_words
from ui.words.names import by_name

TITLE = "Scheme duel"
SECTION = "Lab"
MOST = 6

STATIC = "w:int8/channel,a:int8/tensor/static"
LOOK_FOR = (
    "All schemes read the same tokens as the float model. Perplexity asks how well the text is predicted, KL how far "
    "the predictions moved; KL sees differences that perplexity hides. A difference is real only beyond the chance of "
    "the text and of rounding luck."
)
TURNED = "W4A4\nW4A4,rotate=hadamard\nW4A4,rotate=hadamard/r4\nW4A4,quip=hadamard"


def tries(choice: Choice) -> frame.Tries:
    """On the loaded model: the groups that divide its layers, and the kind of layer whose input has the outliers."""
    lab = choice.lab
    every, kind = lab.shapes().values(), place_of(lab.default_layer())[1]
    fine = [size for size in GROUPS if all(width % size == 0 for _, width in every)]
    grains = ["tensor", "channel", *(f"group{size}" for size in {max(fine), min(fine)} if fine)] if fine else []
    return [
        ("8 bits: int or float", {"duel": "W8A8\nFP8\nFP8_DYNAMIC"}),
        *([("who shares a scale, at 4 bits", {"duel": "\n".join(f"w:int4/{one}" for one in grains)})] * bool(grains)),
        ("a wall, smoothed", {"duel": f"{STATIC}\n{STATIC},smooth=0.5\n{STATIC},smooth=0.85/all"}),
        *([("4 bits all over, turned", {"duel": TURNED})] * lab.can_turn),
        (
            "3 bits: who places them best",
            {"duel": "W3A16\nW3A16,awq\nW3A16,clip\nW3A16,gptq\nW3A16,gptaq\nW3A16,qronos"},
        ),
        (f"{kind} spared", {"duel": f"W3A16\nW3A16@{kind}=w:int8/channel\nW4A16"}),
    ]


def add_line(text: str) -> None:
    """A scheme from the builder onto the list; a callback."""
    st.session_state["duel"] = f"{st.session_state['duel'].rstrip()}\n{text}"


def asked_for(choice: Choice) -> tuple[tuple[str, ...], str]:
    """The list of schemes, one a line, with a builder that adds to it; and what is read.

    Raises: ValueError for too few schemes or too many."""
    lab = choice.lab
    with st.grid(2, min_column_width=430):
        with st.container():
            lines = controls.one_a_line("Schemes, one a line (two to six)", DEFAULT_DUEL, "duel", height=150)
            st.caption(grain_words(lab))
        with st.container():
            with st.container(horizontal=True, vertical_alignment="bottom"):
                limit = controls.pick("Tokens", DUEL_TOKENS, DUEL_TOKENS[0], "tokens")
                read = choice.kind_of_text(EVALUATE)
            builder = st.expander("Build a line with menus, or take a preset")
        with builder, frame.problems():
            st.caption(MENUS)
            scheme = scheme_editor("**New line**", "W4A16_ASYM", "new", lab)
            st.button("Add it to the list", on_click=add_line, args=(str(scheme),), key="add")
            plan = f"W4A16@{place_of(choice.layer)[1]}=W8A16@{choice.layer}=float"
            st.caption(f"Mixed precision: `{plan}`, the last exception that fits decides.")
    able, refused = lab.sorted_out(lines)
    for one, reason in refused.items():
        frame.sentence(f"Line {lines.index(one) + 1}, {one}: {reason}")
    if not (1 if refused else 2) <= len(able) <= MOST:
        raise ValueError(
            f"the list has {len(able)} different schemes that this model can take; a duel takes 2 to {MOST}"
        )
    return tuple(able.values()), str(read.at_most(limit))


def show(found: Duel, so_far: str, spreads: dict[str, Spread] | None = None) -> None:
    """The pictures; of a duel under way (`so_far` says how far) those for which there are figures."""
    for text, reason in found.refused.items():
        frame.sentence(f"{text}: {reason}")
    if found.reports:
        words, table = duel_words.verdict(found, spreads), duel_table(found, spreads)
        frame.headline(f"{so_far} {words}".strip())
        st.table(duel_words.written(table))
        st.caption(duel_words.MARKS)
        with st.grid(2, min_column_width=430):
            chart(figures.pareto(found), key="pareto", alt=words.replace("*", ""))
            with st.container():
                st.markdown(duel_words.TOLD_APART)
                st.table(duel_words.pairs(found, spreads))
                st.caption(duel_words.luck_words(found, spreads))
        frame.numbers(pd.DataFrame(table.records()), "duel")
    chart(figures.layer_errors(found), key="layer_errors", alt=f"worst layer: {duel_words.worst_layers(found)}")
    if notes := duel_words.left_float(found):
        st.caption(notes)


def show_text(found: Duel, choice: Choice, reading: str, spreads: dict[str, Spread] | None) -> None:
    """What reads the text itself, of a duel that is whole; and the ways to leave with it."""
    lab, texts = choice.lab, list(found.reports)
    names = by_name(texts)
    frame.take_links(names)
    st.header("On the text itself")
    default = max(names, key=lambda name: found.reports[names[name]].kl)
    scheme = names[controls.select("Scheme", list(names), default, "read")]
    token_part(found, scheme, lab, reading)
    st.header("Writing on, side by side")
    generation_part(scheme, lab, choice.calibration)
    answers_part(lab, tuple(texts), choice.calibration)
    downloads(lambda: duel_document(found, lab.facts(texts, reading, choice.calibration), spreads), "duel")


def body(choice: Choice) -> None:
    schemes, reading = asked_for(choice)
    lab, asked = choice.lab, (reading, choice.calibration)
    tokens = lab.tokens(reading).numel()
    with st.container():
        found = answer(f"{len(schemes)} schemes on {tokens:,} tokens", lab, Lab.duel, schemes, *asked)
    job_view.kept_notice()
    if found.whole is not None:
        place = st.container()
        spreads = luck_part(lab, tuple(found.whole.reports), *asked)
        with place:
            show(found.whole, "", spreads)
        show_text(found.whole, choice, reading, spreads)
        return
    kept = lab.kept_schemes(schemes, *asked)
    known = lab.kept_duel(kept, *asked) if len(kept) > 1 else found.so_far
    if known is not None:
        show(known, duel_words.so_far(known, tokens))


frame.show(__file__, "Which of these schemes loses least?", LOOK_FOR, tries, body)
