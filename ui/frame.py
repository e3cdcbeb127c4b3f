"""The frame of every page: menu, sidebar, its question, what to look for, things to try; at the end reset, link, CSV,
and the page's calls in Python.

    def body(choice: controls.Choice) -> None:
        choose ... compute ... draw ...

    frame.show("Who shares a scale?", look_for, tries, "pages/2_Granularity.py", body)

The body is a fragment: a move of one of its controls runs, sends and paints the body alone, while menu, sidebar, title
and presets stay. A ValueError inside the frame (a tile that does not divide, a scheme that cannot be) is shown as its
sentence; the controls stay, so the next move mends it. Every page draws its own frame, so a link to any page works on a
fresh server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner_utils.exceptions import ScriptControlException

from quantcore.model.loading import ASSETS
from ui import visitors
from ui import widgets as controls
from ui.classroom import without_paths
from ui.components.chart import head_start
from ui.components.copy_link import copy_link
from ui.job_end import LONGEST, own_words
from ui.markdown import as_is

ICON = ASSETS / "icon.png"  # a file of ours: an icon by name would be fetched from the internet
MENU = {
    "Start here": "app.py",
    "Number formats": "pages/1_Number_formats.py",
    "Granularity": "pages/2_Granularity.py",
    "Outliers": "pages/3_Outliers.py",
    "Static or dynamic": "pages/4_Static_or_dynamic.py",
    "Layer lab": "pages/5_Layer_lab.py",
    "GPTQ step by step": "pages/6_GPTQ_step_by_step.py",
    "Scheme duel": "pages/7_Scheme_duel.py",
    "Which layers hurt": "pages/8_Which_layers_hurt.py",
    "Rules, tested": "pages/9_Rules_tested.py",
    "Speed and memory": "pages/10_Speed_and_memory.py",
    "Take it with you": "pages/11_Take_it_with_you.py",
}
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 2.5rem 2.5rem 4rem; max-width: 1560px; }
[data-testid="stSidebarHeader"] { height: 2.5rem; }
</style>"""
FOLLOWED = "try"  # marks a preset's link; taking the mark off is what brings the link's state to the address bar
Tries = Sequence[tuple[str, Mapping[str, Any]]]


def show(question: str, look_for: str, tries: Tries, path: str, body: Callable[[controls.Choice], None]) -> None:
    """Menu, sidebar, title, two sentences on what to look for, preset links `(label, URL parameters)`; then the body,
    which gets what the sidebar says. It does not run where the model cannot be loaded."""
    choice, notices = _head(question, look_for, tries, path)
    st.session_state["_whole"] = True
    _body(body, choice, notices)


@st.fragment
def _body(body: Callable[[controls.Choice], None], choice: controls.Choice, notices: DeltaGenerator) -> None:
    if not st.session_state.pop("_whole", False) and controls.begin_again():
        st.rerun()  # a reset moves the sidebar's controls too
    with problems():
        body(choice)
    _foot()
    _settle(notices)


def bare(question: str) -> None:
    """The frame of a page that shows no model: menu and title."""
    _begin(question)
    menu()
    st.title(question)


def _begin(question: str) -> None:
    st.set_page_config(page_title=f"{question} - Quantization lab", page_icon=str(ICON), layout="wide")
    st.html(STYLE)
    visitors.arrive()


def _head(question: str, look_for: str, tries: Tries, path: str) -> tuple[controls.Choice, DeltaGenerator]:
    """All above the body; what the sidebar says, and the place for notices about the link."""
    _begin(question)
    head_start()
    controls.begin(path)
    st.query_params.pop(FOLLOWED, None)
    menu()
    heading = st.session_state["_heading"] = st.empty()
    heading.title(st.session_state.get("_asked", {}).get(path, question))
    st.markdown(look_for)
    if tries:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key="tries"):
            st.markdown("**Try this**")
            for label, state in tries:
                link(label, path, {**state, FOLLOWED: 1})
    notices = st.container(key="notices")
    choice = None
    with problems():
        choice = controls.sidebar()
    if choice is None:
        st.stop()
    return choice, notices


def _settle(notices: DeltaGenerator) -> None:
    """Say what the link asked in vain, and remember the address."""
    for notice in controls.notices():
        notices.warning(as_is(without_paths(notice)))
    controls.end()


def ask(question: str, path: str) -> None:
    """Put the page's question anew, with the number that a control holds by now."""
    st.session_state["_heading"].title(question)
    st.session_state.setdefault("_asked", {})[path] = question  # drawn first next time: the title does not flicker


def menu() -> None:
    """The pages, as links that keep the model, the layer and the text."""
    with st.sidebar:
        for label, path in MENU.items():
            link(label, path, {}, width="stretch")
        st.divider()


def link(label: str, path: str, state: Mapping[str, Any], **more: Any) -> None:
    """A link to a page in a given state; what the sidebar says goes along."""
    params = {
        key: [str(one) for one in value] if isinstance(value, list) else str(value)
        for key, value in {**controls.shared_state(), **state}.items()
    }
    st.page_link(path, label=label, query_params=params, **more)


@contextmanager
def problems() -> Iterator[None]:
    """Show a ValueError as its sentence, in place of what it prevented; log anything else and say so. A panic of a
    library's native code is no Exception, and would end the page's thread: the browser would wait for ever."""
    try:
        yield
    except ScriptControlException:  # a rerun, or a stop
        raise
    except ValueError as error:
        sentence(str(error))
    except BaseException as error:
        logging.getLogger(__name__).exception("a page failed")
        said = f"{type(error).__name__}: {own_words(error)[:LONGEST]}"
        sentence(f"This page met an error of its own ({said}); change a control, or reset.")


def sentence(words: str) -> None:
    """What went wrong, in words that may quote a link, a model or a file."""
    st.error(as_is(without_paths(words)))


def metrics(values: Mapping[str, str]) -> None:
    """The page's main numbers, label to value with unit, in a row that wraps."""
    with st.grid(len(values), min_column_width=170, gap="small"):
        for label, value in values.items():
            st.metric(label, value)


def numbers(table: pd.DataFrame, name: str) -> None:
    """Hand the page's numbers to its foot: as a table, and as the file `name`.csv."""
    st.session_state["_numbers"] = (table, name)


def python(code: str) -> None:
    """Hand the page's calls of quantcore to its foot: a program that runs as it stands and gives the page's numbers."""
    st.session_state["_python"] = code


def _foot() -> None:
    """Under the pictures, or under the sentence that stands in their place: reset, copy link, the numbers and their
    CSV, the same in Python."""
    table, name = st.session_state.pop("_numbers", (None, ""))
    code = st.session_state.pop("_python", None)
    with st.container(horizontal=True, vertical_alignment="center", key="foot"):
        st.button("Reset", on_click=controls.reset, key="reset", help="every control of this page back to its default")
        copy_link(key="copy_link")
        if table is not None:
            st.download_button(
                "Numbers as CSV",
                lambda: table.to_csv(index=False),
                f"{name}.csv",
                "text/csv",
                on_click="ignore",
                key="csv",
            )
    if table is not None:
        with opened("The numbers", "numbers") as here:
            if here:
                st.dataframe(table, hide_index=True, width="stretch")
    if code is not None:
        with opened("Python", "python") as here:
            if here:
                st.code(code, language="python")


@contextmanager
def opened(label: str, key: str) -> Iterator[bool]:
    """An expander whose content is made, sent and laid out only while it is open: whether it is."""
    with st.expander(label, key=key, on_change="rerun") as expander:
        yield bool(expander.open)
