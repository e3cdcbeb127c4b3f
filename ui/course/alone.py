"""The course for one who is alone with it, or who presents it: buttons, arrow keys, a link that holds all of it.

?scene=7&guess=12            the seventh scene, 12 guessed      &shown=true     and the answer shown
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.lab.lab import Lab
from ui import frame
from ui.components.page_keys import page_keys
from ui.course import answers, screen
from ui.course.guess import LONGEST
from ui.course.rooms import Room
from ui.course.scene import Missing, Reveal, Scene, Specimen, scenes
from ui.menu import title_of
from ui.sidebar import carried

KEYS = {
    "ArrowRight": ("course_show", "course_next"),
    "PageDown": ("course_show", "course_next"),
    "ArrowLeft": ("course_back",),
    "PageUp": ("course_back",),
}
GAME = "The last game"


@dataclass(frozen=True)
class Place:
    """Where the course stands, as its link says it."""

    scene: int
    guess: str | None
    shown: bool


def titles() -> list[str]:
    return [one.title for one in scenes()] + [GAME]


def place() -> Place:
    """From the link; what cannot be is taken for the beginning, and a sentence says so."""
    asked = st.query_params.get("scene", "1")
    count = len(titles())
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 4 else 0
    if not 1 <= number <= count:
        st.warning(f"The course has the scenes 1 to {count}; the link asks for another one. This is the first.")
        number = 1
    return Place(number - 1, (st.query_params.get("guess") or "")[:LONGEST] or None, "shown" in st.query_params)


def go(number: int) -> None:
    """To a scene, counted from 0; a callback."""
    for name in ("guess", "shown"):
        st.query_params.pop(name, None)
    st.query_params["scene"] = str(number + 1)
    st.session_state["_turn"] = st.session_state.get("_turn", 0) + 1  # the controls begin anew


def show(shown: bool) -> None:
    """Show the answer, or hide it; a callback."""
    if shown:
        st.query_params["shown"] = "true"
    else:
        st.query_params.pop("shown", None)


def body(lab: Lab, at: Place, room: Room | None, beside: Callable[[], None], game: Callable[[Lab], None]) -> None:
    """The screen. In a class `room` is the presenter's: its moves are the class's. `beside`: what else stands in the
    top line. `game`: what the last screen is."""
    page_keys(KEYS, key="course_keys")  # first: it listens by the time there is something to press
    top(at, room, beside)
    if at.scene == len(scenes()):
        game(lab)
        return
    scene = scenes()[at.scene]
    st.title(scene.ask)
    with st.container(key="scene"), frame.problems():
        stage(lab, scene, at, room)
    with frame.problems():
        answers.ahead(lab, scene, quick=not at.shown)
        if at.scene + 1 < len(scenes()):
            answers.ahead(lab, scenes()[at.scene + 1])


def top(at: Place, room: Room | None, beside: Callable[[], None]) -> None:
    """Back, how far, where else, next."""
    names = titles()
    with st.container(horizontal=True, vertical_alignment="center", key="course_top"):
        st.button("◀ Back", on_click=move, args=(at.scene - 1, room), key="course_back", disabled=at.scene == 0)
        with st.container(width="stretch"):
            screen.progress(at.scene, names)
        turn = st.session_state.get("_turn", 0)
        with st.popover("Scenes", key=f"course_scenes_{turn}"), st.container(gap=None):  # a new one is closed
            for number, name in enumerate(names):
                label = f"**{number + 1}. {name}**" if number == at.scene else f"{number + 1}. {name}"
                st.button(label, on_click=move, args=(number, room), key=f"course_to_{number}", type="tertiary")
        beside()
        last = at.scene == len(names) - 1
        st.button("Next ▶", on_click=move, args=(at.scene + 1, room), key="course_next", disabled=last)


def move(number: int, room: Room | None) -> None:
    go(number)
    if room is not None:
        room.go(number)


def stage(lab: Lab, scene: Scene, at: Place, room: Room | None) -> None:
    left, right = st.columns([screen.LEFT, screen.RIGHT], gap="medium")
    if at.shown:
        st.empty()  # in the guess's place: what a run leaves out would stand below the answer until the run ends
        _answer(lab, scene, at, room, left, right)
        return
    with left:
        found = answers.find(lab, scene)
        if isinstance(found, Missing):
            st.info(found.said)
    if found is None or isinstance(found, Missing):
        return
    place = left
    if found.before:
        with right:
            screen.pictures(found.before, f"before_{scene.key}")
    else:  # nothing to look at yet: the words are large
        place = st.container(key="before")
    with place:
        _guess(scene, found, at)
        st.button("Show", on_click=show, args=(True,), key="course_show", type="primary")


def _answer(lab: Lab, scene: Scene, at: Place, room: Room | None, left: DeltaGenerator, right: DeltaGenerator) -> None:
    with left:
        found = answers.find(lab, scene)
        shown = None if found is None or isinstance(found, Missing) else answers.reveal(lab, scene)
        if isinstance(found, Missing):
            st.info(found.said)
    if shown is None or not isinstance(found, Specimen):
        return
    if room is not None and not room.shown:
        room.show()
    text = None if at.guess is None else found.guess.read(at.guess)
    with left:
        if at.guess is not None and text is None:
            _not_taken(found)
        if room is not None:
            screen.class_bars(found.guess, room.guesses, shown.truth, scene.key)
        screen.answer_part(lab, scene, found, text, shown, asked=room is None)  # the class's guesses take its place
        if room is None:  # who presents asks the class again, under Class
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button("Guess again", on_click=hide, key="course_hide")
                further(shown)
    with right:
        screen.pictures(shown.pictures, f"shown_{scene.key}", screen.marked(found.guess, text, shown))


def further(shown: Reveal) -> None:
    """Where this idea's numbers can be moved, on the layer that was shown. It opens beside the course: within a visit
    Streamlit keeps the sidebar's layer as it stood, whatever a link says."""
    if shown.more is not None:
        path, state = shown.more
        page = "" if path == "app.py" else Path(path).stem.partition("_")[2]
        address = f"./{page}?{urlencode(carried(state), doseq=True)}"
        st.markdown(f"[Try it yourself: {title_of(path)}]({address})")


def _guess(scene: Scene, found: Specimen, at: Place) -> None:
    """The control, which begins as the link says; the guess goes into the link."""
    key = f"guess_{scene.key}_{st.session_state.get('_turn', 0)}"
    starts = st.session_state.setdefault("_guess_starts", {})
    if key not in starts:
        starts.clear()
        starts[key] = None if at.guess is None else found.guess.read(at.guess)
        if at.guess is not None and starts[key] is None:
            _not_taken(found)
            st.query_params.pop("guess", None)
    text = screen.guess_part(scene, found, starts[key], key)
    if text is not None and st.query_params.get("guess") != text:
        st.query_params["guess"] = text


def _not_taken(found: Specimen) -> None:
    st.warning(f"The link's guess is none that this scene takes: it takes {found.guess.takes}.")


def hide() -> None:
    """Back to the guess as it was."""
    show(False)
    st.session_state["_turn"] = st.session_state.get("_turn", 0) + 1
