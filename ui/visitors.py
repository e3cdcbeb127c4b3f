"""Who asks, and who is still there: a browser, one of its tabs, and the rules for their jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import streamlit as st
from streamlit import config
from streamlit.runtime import exists, get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.state import SafeSessionState

from ui.classroom import LEAVE_S, MOST_WAITING, VISITOR, classroom, is_teachers
from ui.job import Asker, Rules

SERVER = "serve.py"
OWNER = "owner"  # of a server that serves its own user, in however many browsers
WORD = "teacher"  # the parameter of the teacher's link


def asker() -> Asker:
    """The visitor whose page runs."""
    ctx = get_script_run_ctx(suppress_warning=True)
    session = ctx.session_id if ctx is not None else ""
    if classroom() is None:
        return Asker(OWNER, session)
    return Asker(st.context.cookies.get(VISITOR) or session, session)


_sessions: dict[str, list[Callable[[], None]]] = {}  # what ends with each


def arrive() -> None:
    """Note the session whose page runs; every page calls this."""
    ctx = get_script_run_ctx(suppress_warning=True)
    if ctx is not None and ctx.session_id not in _sessions:
        _sessions[ctx.session_id] = [partial(_wipe, ctx.session_state)]


def require_server() -> None:
    """Raises: ValueError where the pages run without serve.py, which decides whom the server answers and ends what a
    visitor left."""
    started = getattr(config, "_main_script_path", None)  # None in a test
    if started is not None and Path(started).name != SERVER:
        raise ValueError(f"{Path(started).name} was started without its server; start it with: streamlit run {SERVER}")


def at_end(end: Callable[[], None]) -> None:
    """Call `end` when the session whose page runs is closed."""
    if (ctx := get_script_run_ctx(suppress_warning=True)) is not None:
        arrive()
        _sessions[ctx.session_id].append(end)


def sessions() -> list[str]:
    """The sessions that were there and are not closed yet."""
    return list(_sessions)


def forget(session: str) -> None:
    """A session is closed: end what belongs to it. Whoever still holds its objects holds empty ones."""
    for end in _sessions.pop(session, ()):
        end()


def _wipe(state: SafeSessionState) -> None:
    for key in list(state.filtered_state):
        with suppress(KeyError):
            del state[key]


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


@st.cache_resource
def teachers() -> set[str]:
    """Visitors who came by the teacher's link: by their browser, so that a page loaded anew is the teacher's still."""
    return set()


def is_teacher() -> bool:
    """Whether this visitor may see and clear the line: in class mode who came by the teacher's link, else the user."""
    if (word := st.query_params.get(WORD)) is not None:
        (teachers().add if is_teachers(word) else teachers().discard)(asker().visitor)
        del st.query_params[WORD]  # a link that is passed on does not pass it on
    return may_present()


def may_present() -> bool:
    """`is_teacher`, asked in a callback, after the page has read its link."""
    return classroom() is None or asker().visitor in teachers()
