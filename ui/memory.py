"""Objects that stay are taken out of the garbage collector's rounds, and those that were caught with them come back.

A full collection over the objects of torch and a model takes 150 to 300 ms in which nobody is served; frozen ones are
not walked. What is made later adds up again (pages, pictures, thirty visitors), so whenever a round has come to take
long, what it left alive is frozen too. But a freeze takes all there is: also the sessions of visitors who are there at
that moment, whose texts would stay for ever.

Streamlit would collect after every run of a script or of a fragment, and a class of thirty looks at its teacher's page
60 times a second: our settings turn that off, and `tidy` collects once a second for all of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

LONG_S = 0.015  # of a round, CPU time

_caught: list[bool] = []  # not empty: sessions were alive at a freeze


def freeze(sessions: int, collect: bool = True) -> None:
    """Freeze what stays, after a model was loaded; `sessions` are open meanwhile."""
    if collect:
        gc.collect()
    gc.freeze()
    if sessions:
        _caught.append(True)


def tidy(seen: int) -> int:
    """One full round, if anything was made since `seen`, the young rounds that this returned before."""
    rounds: int = gc.get_stats()[0]["collections"]
    if rounds != seen and gc.isenabled():  # disabled while the server imports: what is made then stays
        gc.collect()
    return rounds


def collect(sessions: int) -> None:
    """Collect what closed sessions have left, also what was caught in a freeze; `sessions` are open still."""
    if not _caught:
        gc.collect()
        return
    _caught.clear()
    gc.unfreeze()
    freeze(sessions)


def caught() -> bool:
    """Whether sessions were alive at a freeze: what they let go of since may be frozen."""
    return bool(_caught)


def keep_rounds_short(sessions: Callable[[], int]) -> None:
    """From now on, freeze whatever is alive after a full round that took LONG_S; `sessions()` are open then."""
    began = 0.0

    def timed(phase: str, info: dict[str, Any]) -> None:
        nonlocal began
        if info["generation"] == 2 and phase == "start":
            began = time.thread_time()
        elif info["generation"] == 2 and time.thread_time() - began > LONG_S:
            freeze(sessions(), collect=False)

    gc.callbacks.append(timed)
