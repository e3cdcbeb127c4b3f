"""A follower's page: the scene that the presenter shows, a guess, and the answer when the presenter shows it.

Nothing is computed here that the presenter's page has not computed: the answer is shown after it is there, and then
comes from memory. A look every LOOK_S asks one number, the room's version; only a new one draws the page anew.
"""

from __future__ import annotations

import streamlit as st

from ui import frame, kept, visitors
from ui.classroom import classroom
from ui.course import answers, screen
from ui.course.alone import GAME
from ui.course.present import rooms
from ui.course.rooms import Room
from ui.course.scene import Missing, scenes

LOOK_S = 0.5
FOLLOWED = "_followed"  # in the session: the code of the class that this page was in


def body(code: str) -> None:
    room = rooms().get(code)
    if room is None:
        outside(code)
        return
    st.session_state[FOLLOWED] = code
    visitor = me()
    room.here(visitor)
    version = room.version
    with frame.problems():
        stage(room, visitor)
    look(room, version, visitor)


def outside(code: str) -> None:
    """A code that no class has; who followed the class until now reads that it has ended."""
    if st.session_state.get(FOLLOWED) == code:
        st.title("The class has ended")
        st.markdown("Your teacher has closed it; no guess was kept. You may go through the course on your own.")
        st.button("To the course", on_click=st.query_params.clear, type="primary")  # the code goes from the address too
        return
    st.title("Join a class")
    st.error("No class is open under this name (any more); ask your teacher for the six signs of yours.")
    typed = st.text_input("Code", key="join_code", max_chars=6)
    if typed:
        st.query_params["join"] = typed.strip().upper()
        st.rerun()


@st.fragment(run_every=LOOK_S)
def look(room: Room, version: int, visitor: str) -> None:
    """See whether the presenter has moved."""
    room.here(visitor)
    if room.version != version:
        st.rerun()


def me() -> str:
    """What tells this browser from others; in class mode its cookie, so that tabs count once."""
    asker = visitors.asker()
    return asker.session if classroom() is None else asker.visitor


def stage(room: Room, visitor: str) -> None:
    if room.scene == len(scenes()):
        st.title(GAME)
        st.markdown("Your teacher shows the last game. You can play it too, on the course's own page.")
        return
    scene, lab = scenes()[room.scene], kept.lab(room.model, room.device)
    st.title(scene.ask)
    with st.container(key="scene"):
        left, right = st.columns([screen.LEFT, screen.RIGHT], gap="medium")
        if scene.slow_find and not room.shown and not answers.is_found(lab, scene):
            with left:
                st.info("Your teacher's machine is measuring; this scene follows by itself.")
            wait(room, scene.key)
            return
        found = answers.found(lab, scene)
        with left:
            if isinstance(found, Missing):
                st.info(found.said)
                return
            text = room.guess_of(visitor)
            if not room.shown:
                moved = screen.guess_part(scene, found, _start(room, text), f"follow_{room.code}_{room.version}")
                if moved is not None and moved != text:
                    text = moved if room.guess(visitor, moved) else text
                said = f"Your guess: **{found.guess.words(text)}**. You may change it." if text else "Make your guess."
                st.markdown(f"{said} The answer comes when your teacher shows it.")
        if not room.shown:
            with right:
                screen.pictures(found.before, f"before_{scene.key}")
            return
        shown = answers.revealed(lab, scene)
        with left:
            screen.class_bars(found.guess, room.guesses, shown.truth, scene.key)
            screen.answer_part(lab, scene, found, text, shown)
        with right:
            screen.pictures(shown.pictures, f"shown_{scene.key}", screen.marked(found.guess, text, shown))


def _start(room: Room, text: str | None) -> str | None:
    """Where the control begins: as this visitor left it before the page was loaded anew."""
    starts: dict[int, str | None] = st.session_state.setdefault("_follow_starts", {})
    if room.version not in starts:
        starts.clear()
        starts[room.version] = text
    return starts[room.version]


@st.fragment(run_every=LOOK_S)
def wait(room: Room, key: str) -> None:
    """See whether the specimen is there."""
    lab = kept.lab(room.model, room.device)
    if answers.is_found(lab, next(one for one in scenes() if one.key == key)):
        st.rerun()
