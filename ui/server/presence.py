"""Which tabs are open: a session ends a minute after its tab was closed, and what its visitor brought goes with it.

Streamlit itself lets go of a closed session when another one opens, which after the lesson may be tomorrow. The same
look collects the garbage of all scripts that ran since the last one (ui/memory.py says why).
"""

from __future__ import annotations

import asyncio
import logging
import time

from streamlit.runtime import Runtime, get_instance

from ui import visitors
from ui.classroom import GONE_S
from ui.memory import caught, collect, tidy

LOOK_S = 1.0
COLLECT_S = 30.0  # between two collections: one of what was frozen stops all pages for 0.3 s
THAW_S = 600.0  # and where nobody leaves


async def watch_sessions() -> None:
    """Look after the sessions for as long as the server runs, in the server's own thread."""
    away: dict[str, float] = {}
    collected, closed, rounds = time.monotonic(), 0, 0
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            rounds = tidy(rounds)
            closed += close_left(get_instance(), away, time.monotonic())
            since = time.monotonic() - collected
            if (closed and since > COLLECT_S) or (caught() and since > THAW_S):
                collect(len(visitors.sessions()))
                collected, closed = time.monotonic(), 0
        except Exception:
            logging.getLogger(__name__).exception("Watching the sessions failed; the next look is in a second.")


def close_left(runtime: Runtime, away: dict[str, float], now: float) -> int:
    """Close the sessions whose tabs have been closed for GONE_S; how many. `away`: since when each is, kept between two
    calls."""
    sessions = visitors.sessions()
    for session in sessions:
        if runtime.is_active_session(session):
            away.pop(session, None)
        else:
            away.setdefault(session, now)
    gone = [session for session, since in away.items() if now - since >= GONE_S]
    for session in gone:
        runtime.close_session(session)
        visitors.forget(session)
        del away[session]
    return len(gone)
