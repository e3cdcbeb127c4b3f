"""Objects that stay are taken out of the garbage collector's rounds, and those that were caught with them come back.

Streamlit collects after every script run. Over the objects of torch and a model that takes 150-300 ms in which nobody
else is served; frozen ones are not walked. But a freeze takes all there is: also the sessions of visitors who are there
at that moment, whose texts would stay for ever.
"""

from __future__ import annotations

import gc

_caught: list[bool] = []  # not empty: sessions were alive at the last freeze


def freeze(sessions: int, collect: bool = True) -> None:
    """Freeze what stays, after a model was loaded; `sessions` are open meanwhile."""
    if collect:
        gc.collect()
    gc.freeze()
    if sessions:
        _caught.append(True)


def collect() -> None:
    """Collect what closed sessions have left, also what was caught in a freeze."""
    if not _caught:
        gc.collect()
        return
    _caught.clear()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
