"""The frame of every page: menu, sidebar, its question, what to look for, things to try; at the end reset, link, CSV,
and the page's calls in Python.

    TITLE = "Granularity"            what the menu calls the page; its place there is the number in its file's name
    SECTION = "Learn"                where in the menu it stands: Learn, Lab or Decide

    def body(choice: Choice) -> None:
        choose ... compute ... draw ...

    frame.show(__file__, "Who shares a scale?", look_for, tries, body)

The body is a fragment: a move of one of its controls runs, sends and paints the body alone, while menu, sidebar, title
and presets stay. A ValueError inside the frame (a tile that does not divide, a scheme that cannot be) is shown as its
sentence; the controls stay, so the next move mends it. Every page draws its own frame, so a link to any page works on a
fresh server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner_utils.exceptions import ScriptControlException

from quantcore.lab.lab import Lab
from ui import python_code, visitors
from ui import widgets as controls
from ui.classroom import without_paths
from ui.components.chart import head_start
from ui.components.copy_link import copy_link
from ui.components.glossary import glossary
from ui.components.page_life import page_life
from ui.job_end import LONGEST, own_words
from ui.markdown import as_is
from ui.menu import page_of, sections
from ui.server.links import MARK
from ui.sidebar import Choice, carried, sidebar
from ui.words.glossary import first_defined

ICON = Path(__file__).with_name("icon.png")  # a file of ours: an icon by name would be fetched from the internet
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 1.75rem 2.5rem 4rem; max-width: 1560px; }
[data-testid="stHeader"] { height: 2.5rem; min-height: 2.5rem; }
[data-testid="stSidebarHeader"] { height: 2.25rem; margin-bottom: 0; }
.st-key-menu [data-testid="stElementContainer"]:has(a) { margin: 0; }
.st-key-menu [data-testid="stPageLink"] a { padding: 0 0.5rem; margin: 0; min-height: 1.625rem; }
.st-key-menu [data-testid="stCaptionContainer"] { margin-top: 0.4rem; }
[data-testid="stMain"] [data-testid="stPageLink"] a p { text-decoration: underline; text-underline-offset: 3px; }
[class*="st-key-way_"] a p { font-weight: 600; }
.st-key-tries { row-gap: 0.25rem; }
[class*="st-key-way_"] { padding: 0.4rem 0.8rem; }
.st-key-menu p { line-height: 1.5; }
[class*="st-key-steady"] { min-height: 4.75rem; }  /* with a control in it or without: what follows does not jump */
[data-testid="stMetricValue"] { font-size: 1.75rem; }
[data-testid="stMetricValue"] *, [data-testid="stMetricLabel"] * { white-space: normal; overflow: visible; }
[class*="st-key-headline"] p { font-size: 1.2rem; line-height: 1.45; }
[data-testid="stLayoutWrapper"]:has(> .st-key-working) { position: absolute; }  /* so that it takes no place */
.st-key-working { position: fixed; bottom: 0.6rem; left: 50%; width: auto; z-index: 99; pointer-events: none; }
.st-key-working p { padding: 0.3rem 0.9rem; border: 1px solid currentColor; border-radius: 0.5rem; margin: 0;
  background: var(--lab-surface, Canvas); opacity: 0; animation: lab-late 0.1s 1s forwards; }
@keyframes lab-late { to { opacity: 1; } }
/* Streamlit's captions and filled buttons are paler than 4.5:1 */
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { opacity: 1 !important; }
[data-testid="stCaptionContainer"] p { color: color-mix(in srgb, currentColor 85%, transparent); }
/* beside small words code would be 10.5 px */
:is([data-testid="stMarkdownContainer"], [data-testid="stCaptionContainer"]) :not(pre) > code {
  font-size: max(0.75em, 0.8rem) !important; }
[data-testid="stBaseButton-primary"] { background: #147a92 !important; border-color: #147a92 !important; }
[data-testid="stBaseButton-primary"] p { color: #ffffff; }
[data-stale="true"] { opacity: 1 !important; }  /* text stays legible while the next answer is on its way */
@media (max-width: 960px) { [data-testid="stMainBlockContainer"] { padding: 2.25rem 2.1rem 3rem 1.25rem; } }
@media (max-width: 640px) { [data-testid="stMainBlockContainer"] { padding-right: 1.25rem; } }
</style>"""
TAKE = "pages/16_Take_it_with_you.py"
FOLLOWED = "try"  # marks a preset's link; taking the mark off is what brings the link's state to the address bar
Tries = Sequence[tuple[str, Mapping[str, Any]]]
TriesOn = Callable[[Choice], Tries]  # presets that look for their example on the loaded model


def show(
    file: str,
    question: str,
    look_for: str,
    tries: Tries | TriesOn,
    body: Callable[[Choice], None],
    opening: Callable[[], None] | None = None,
    first: Callable[[Lab], str] | None = None,
) -> None:
    """Menu, sidebar, title, two sentences on what to look for, preset links `(label, URL parameters)`; then the body,
    which gets what the sidebar says. It does not run where the model cannot be loaded.

    opening   draws what stands between the sentences and the presets
    first     the layer that the page opens on (default: the lab's)"""
    choice, notices = _head(question, look_for, tries, page_of(file), opening, first)
    st.session_state["_whole"] = True
    _body(body, choice, notices)


@st.fragment
def _body(body: Callable[[Choice], None], choice: Choice, notices: DeltaGenerator) -> None:
    if not st.session_state.pop("_whole", False) and controls.begin_again():
        st.rerun()  # a reset moves the sidebar's controls too
    asked = replace(choice, lab=python_code.noting(choice.lab))
    with working(), problems():
        body(asked)
    _foot(asked.lab)
    _settle(notices)


def bare(question: str, file: str) -> None:
    """The frame of a page that shows no model: menu and title."""
    _begin(question)
    controls.begin(page_of(file))
    menu()
    st.title(question)


def stage(question: str, file: str, alone: bool = True) -> Choice | None:
    """The frame of a page that is one screen: the sidebar folded away, no title; what the sidebar says. `alone`: False
    for who follows somebody else, and has no sidebar."""
    _begin(question, "collapsed")
    head_start()
    controls.begin(page_of(file))
    if not alone:
        glossary()
        return None
    menu()
    choice = None
    with problems():
        choice = sidebar()
    if choice is None:
        st.stop()
    return choice


def _begin(question: str, sidebar_state: Literal["auto", "collapsed"] = "auto") -> None:
    st.set_page_config(
        page_title=f"{question} - Quantization lab",
        page_icon=str(ICON),
        layout="wide",
        initial_sidebar_state=sidebar_state,
    )
    st.html(STYLE)
    try:
        visitors.require_server()
    except ValueError as error:
        sentence(str(error))
        st.stop()
    visitors.arrive()


def _head(
    question: str,
    look_for: str,
    tries: Tries | TriesOn,
    path: str,
    opening: Callable[[], None] | None,
    first: Callable[[Lab], str] | None,
) -> tuple[Choice, DeltaGenerator]:
    """All above the body; what the sidebar says, and the place for notices about the link."""
    _begin(question)
    head_start()
    controls.begin(path)
    menu()
    heading = st.session_state["_heading"] = st.empty()
    heading.title(st.session_state.get("_asked", {}).get(path, question))
    st.markdown(look_for)
    if opening is not None:
        opening()
    offered = st.container(horizontal=True, vertical_alignment="center", gap="small", key="tries")
    notices = st.container(key="notices")
    choice = None
    with problems():
        choice = sidebar(first)
    if choice is None:
        _life()
        st.stop()
    with problems():
        found = tries(choice) if callable(tries) else tries
        _show_moved(found)
        _offer(offered, found, path)  # behind the sidebar: the links take along the layer that a map has just opened
    return choice, notices


def _offer(place: DeltaGenerator, tries: Tries, path: str) -> None:
    """The presets as links; nothing for none."""
    if not tries:
        return
    with place:
        st.markdown("**Try this**")
        for number, (label, state) in enumerate(tries, 1):
            link(label, path, {**state, FOLLOWED: number})


def _show_moved(tries: Tries) -> None:
    """Take the mark of a followed preset off the link, and let the browser show which controls it moved."""
    followed = st.query_params.pop(FOLLOWED, None)
    if followed in {str(place) for place in range(1, len(tries) + 1)}:
        st.session_state["_follows"] = st.session_state.get("_follows", 0) + 1
        st.session_state["_moved_by_preset"] = list(tries[int(followed) - 1][1])
    _life()


def _life() -> None:
    page_life(st.session_state.get("_moved_by_preset", []), st.session_state.get("_follows", 0))


def _settle(notices: DeltaGenerator) -> None:
    """Say what the link asked in vain, and remember the address."""
    for notice in controls.notices():
        notices.warning(as_is(without_paths(notice)))
    controls.end()


def ask(question: str, file: str) -> None:
    """Put the page's question anew, with the number that a control holds by now."""
    st.session_state["_heading"].title(question)
    drawn_first = st.session_state.setdefault("_asked", {})  # next time: the title does not flicker
    drawn_first[page_of(file)] = question


def menu() -> None:
    """The pages, as links that keep the model, the layer and the text; and the words of this field, explained."""
    with st.sidebar, st.container(key="menu", gap=None):
        for section, pages in sections().items():
            if section and pages:
                st.caption(f"**{section}**")
            for label, path in pages.items():
                link(label, path, {}, width="stretch")
        st.divider()
        glossary()


def link(label: str, path: str, state: Mapping[str, Any], **more: Any) -> None:
    """A link to a page in a given state; what the sidebar says goes along."""
    mark = {} if st.session_state.get("_page") == path else {MARK: "1"}
    params = {
        key: [str(one) for one in value] if isinstance(value, list) else str(value)
        for key, value in {**mark, **carried(state)}.items()
    }
    st.page_link(path, label=label, query_params=params, **more)


def take_links(schemes: Mapping[str, str]) -> None:
    """A row of links to the page that lets one leave, name to the text of a scheme or plan; nothing for none."""
    if not schemes:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**Take it with you**")
        for label, text in schemes.items():
            link(as_is(label), TAKE, {"scheme": text})


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


@contextmanager
def working() -> Iterator[None]:
    """Words at the edge of the window for as long as the page works, seen when that takes longer than a second."""
    with st.container(key="working"):
        words = st.empty()
    words.markdown("Still working on this page ...")
    try:
        yield
    finally:
        words.empty()


@contextmanager
def controls_in_sight(stacked: bool = False) -> Iterator[None]:
    """A row of controls, or several (`stacked`), that stays at the top of the window while the pictures that it moves
    are looked at."""
    with st.container(key="controls", horizontal=not stacked, vertical_alignment="top", gap="small"):
        yield


def headline(words: str, name: str = "") -> None:
    """What the page found, in one sentence: set large, and read out when it changes."""
    with st.container(key=f"headline{name}"):
        st.markdown(words)


def metrics(values: Mapping[str, str]) -> None:
    """The page's main numbers, label to value with unit, in a row that wraps."""
    with st.grid(len(values), min_column_width=150, gap="small"):
        for label, value in values.items():
            st.metric(label, value)


def numbers(table: pd.DataFrame, name: str) -> None:
    """Hand the page's numbers to its foot: as a table, and as the file `name`.csv."""
    st.session_state["_numbers"] = (table, name)


def heads(table: pd.DataFrame) -> dict[str, Any]:
    """The glossary's lines on the headings of a table that a browser paints: no text there can be pointed at."""
    said = {str(name): first_defined(str(name)) for name in table.columns}
    return {name: st.column_config.Column(help=lines) for name, lines in said.items() if lines}


def _foot(lab: Lab) -> None:
    """Under the pictures, or under the sentence that stands in their place: reset, copy link, the numbers and their
    CSV, and what the page asked its lab, in Python."""
    table, name = st.session_state.pop("_numbers", (None, ""))
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
                st.dataframe(table, hide_index=True, width="stretch", column_config=heads(table))
    if python_code.asked(lab):
        with opened("Python", "python") as here, problems():
            if here:
                st.code(python_code.program(lab), language="python")


@contextmanager
def opened(label: str, key: str) -> Iterator[bool]:
    """An expander whose content is made, sent and laid out only while it is open: whether it is."""
    with st.expander(label, key=key, on_change="rerun") as expander:
        yield bool(expander.open)
