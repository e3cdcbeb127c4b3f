"""What the pages keep: one answer for all visitors, but for a text of a visitor's own one for that visitor alone.

    @kept(max_entries=16, show_spinner="Running the model over the text ...")
    def inputs(model_id: str, device: str, layer: str, text_id: str) -> Tensor: ...

Arguments are text and numbers, because Streamlit hashes large arrays by sampling and cannot hash tensors; what is
returned is shared and never changed. An argument that begins with OWN names a visitor's text: what was made of it is
kept with the session and goes when its browser has gone. A thread without a session (a job's) computes it anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from quantcore.text.reading import OWN

P = ParamSpec("P")
R = TypeVar("R")
MOST_OWN = 4  # answers on own texts that one visitor's session keeps of one function


def is_private(*arguments: object) -> bool:
    """Whether one of the arguments is the id of a visitor's own text."""
    return any(isinstance(one, str) and one.startswith(OWN) for one in arguments)


class Kept(Generic[P, R]):
    """A function whose answers are kept, for all or for the visitor whose text they are made of."""

    def __init__(self, compute: Callable[P, R], max_entries: int, show_spinner: bool | str) -> None:
        self._compute = compute
        self._for_all = st.cache_resource(compute, max_entries=max_entries, show_spinner=show_spinner)
        self._for_one = st.cache_resource(
            compute, max_entries=min(max_entries, MOST_OWN), show_spinner=show_spinner, scope="session"
        )
        update_wrapper(self, compute)

    def __call__(self, *args: P.args, **more: P.kwargs) -> R:
        if not is_private(*args, *more.values()):
            return self._for_all(*args, **more)
        if get_script_run_ctx(suppress_warning=True) is None:
            return self._compute(*args, **more)
        return self._for_one(*args, **more)

    def clear(self, *args: P.args, **more: P.kwargs) -> None:
        """Forget the answer to these arguments; without any, all answers."""
        private = is_private(*args, *more.values())
        (self._for_one if private else self._for_all).clear(*args, **more)


def kept(*, max_entries: int, show_spinner: bool | str = False) -> Callable[[Callable[P, R]], Kept[P, R]]:
    return lambda compute: Kept(compute, max_entries, show_spinner)
