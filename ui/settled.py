"""What a move asks of the lab: drawn at once where the answer is known or quick, else a job beside what stood before.

    layer, fmt = settled("payers", f"{fmt} on {layer}", lab, (layer, fmt), lambda one, f: [(Lab.payers, one, f)])

A page that asked its lab itself would stand still, and could not be stopped, for as long as the answer takes. So the
questions of one place are asked by a job first (its own line: no duel stands before it); the page then finds them
remembered. Until then the page goes on to show the settings that it showed before, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import streamlit as st

from quantcore.lab.lab import Lab
from ui import job_view
from ui.job import Teller
from ui.python_code import lab_of

SOON_S = 0.7  # an answer within this time shows no progress
BEFORE = "What stands below shows the settings before; it follows when this is done."

State = TypeVar("State", bound=tuple[Hashable, ...])
Question = tuple[Any, ...]  # a method of Lab, and what it is asked


def settled(
    place: str, title: str, lab: Lab, wanted: State, questions: Callable[..., Sequence[Question]]
) -> State | None:
    """The settings to draw: those wanted, once the lab knows the answers to their questions; until then the ones drawn
    before at this place, or None where there are none. Progress and Cancel stand where this was called.

    questions   settings -> what the lab is asked for them, in order"""
    bare, known = lab_of(lab), f"_settled_{place}"
    with st.container():
        if all_known(bare, questions(*wanted)) or _asked(place, title, bare, questions(*wanted)):
            st.session_state[known] = bare.id, bare.device, wanted
            return wanted
        before: tuple[str, str, State] | None = st.session_state.get(known)
        if before is None or before[:2] != (bare.id, bare.device) or not all_known(bare, questions(*before[2])):
            return None
        st.caption(BEFORE)
        return before[2]


def all_known(lab: Lab, questions: Sequence[Question]) -> bool:
    return all(lab.remembers(*question) for question in questions)


def _asked(place: str, title: str, lab: Lab, questions: Sequence[Question]) -> bool:
    """Let a job ask; whether it has."""

    def work(tell: Teller) -> bool:
        for done, (question, *asked) in enumerate(questions):
            tell.part(done, len(questions))
            try:
                getattr(lab, question.__name__)(*asked)
            except ValueError:  # the page asks again, and says it where the answer would stand
                break
        return True

    names = (f"{question.__name__} {asked}" for question, *asked in questions)
    key = "|".join(["settled", lab.id, lab.device, *names])
    line = f"{lab.device} (moves)"
    return job_view.result_of(line, key, title, work, place=place, patience_s=SOON_S, passing=True) is not None
