"""The course: one idea a screen, a guess before each picture; alone, or a class that guesses together."""

import streamlit as st

from quantcore.lab.lab import Lab
from ui import frame, visitors
from ui.course import alone, follow, game, present, screen

TITLE = "The course"
SECTION = "Learn"

code = st.query_params.get(present.JOIN)
choice = frame.stage("The course", __file__, alone=code is None)
st.html(screen.STYLE)
teacher = visitors.is_teacher()


@st.fragment
def body(lab: Lab) -> None:
    at = alone.place()
    room = present.mine(lab)
    if room is not None:
        present.lead(room, at.scene)
    with frame.working():
        alone.body(lab, at, room, lambda: present.top(lab, at.scene, teacher), game.body)


if code is not None:
    follow.body(code)
elif choice is not None:
    body(choice.lab)
