"""Who asks, and who is still there: a browser, one of its tabs, and the rules for their jobs."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime import exists, get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ui.classroom import LEAVE_S, MOST_WAITING, VISITOR, classroom, is_teachers
from ui.job import Asker, Rules

OWNER = "owner"  # of a server that serves its own user, in however many browsers
WORD = "teacher"  # the parameter of the teacher's link


def asker() -> Asker:
    """The visitor whose page runs."""
    ctx = get_script_run_ctx(suppress_warning=True)
    session = ctx.session_id if ctx is not None else ""
    if classroom() is None:
        return Asker(OWNER, session)
    return Asker(st.context.cookies.get(VISITOR) or session, session)


_sessions: set[str] = set()


def arrive() -> None:
    """Note the session whose page runs; every page calls this."""
    if (ctx := get_script_run_ctx(suppress_warning=True)) is not None:
        _sessions.add(ctx.session_id)


def sessions() -> list[str]:
    """The sessions that were there and are not closed yet."""
    return list(_sessions)


def forget(session: str) -> None:
    """Note that a session is closed."""
    _sessions.discard(session)


def is_open(session: str) -> bool:
    """Whether a tab is open: its socket is."""
    return not exists() or get_instance().is_active_session(session)


def present(who: Asker) -> bool:
    """Whether the tab that asks is open."""
    return is_open(who.session)


def rules() -> Rules:
    """What this server allows its visitors' jobs."""
    if classroom() is None:
        return Rules(present=present)
    return Rules(MOST_WAITING, LEAVE_S, present)


def is_teacher() -> bool:
    """Whether this visitor may see and clear the line: in class mode who came by the teacher's link, else the user."""
    if (word := st.query_params.get(WORD)) is not None:
        st.session_state["_teacher"] = is_teachers(word)
        del st.query_params[WORD]  # a link that is passed on does not pass it on
    return classroom() is None or st.session_state.get("_teacher", False)
