"""One model is made at a time.

While transformers makes or loads a model it changes its own classes (no weights are tied), torch's functions (none are
drawn) and the default type, and puts back afterwards what it found. Two threads at once put back what the other had put
there: from then on no model of the process has tied weights, and none of those that need them loads.

    with making():
        model = kind.from_pretrained(...)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_one = threading.RLock()
LOOK_S = 0.2


def _wait() -> None: ...


@contextmanager
def making(waiting: Callable[[], None] = _wait) -> Iterator[None]:
    """While it lasts no other thread makes a model. `waiting` is called again and again until it is this one's turn,
    and may raise to give up."""
    while not _one.acquire(timeout=LOOK_S):
        waiting()
    try:
        yield
    finally:
        _one.release()
