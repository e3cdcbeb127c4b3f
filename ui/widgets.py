"""Widgets that live in the URL.

Every control is bound to a URL parameter of its key's name, so a link holds the page's whole state, and remembers its
default, so that reset needs no list. A value in a link that a control cannot hold is not silently dropped: `notices`
has one sentence about it for the page to show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import streamlit as st

from ui.server.links import MARK

T = TypeVar("T", bound="str | int | float")
START = "_start_"
SHARED = (  # controls that all pages have
    *("model", "device", "layer", "expert", "text", "own", "dataset", "sequences", "length", "chat"),
    *("learn_from", "learn_own", "learn_dataset", "learn_sequences", "learn_length", "learn_chat"),
)
# Steps of a load, on every page that asks for one: tokens of a sequence, sequences at once
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def begin(path: str) -> None:
    """Forget the controls and notices of the last run; call once, before the first control of the page `path`."""
    if st.session_state.get("_page") != path:
        st.session_state["_page"], st.session_state["_known"] = path, {}
    st.query_params.pop(MARK, None)
    address = st.query_params.to_dict()
    st.session_state["_moved"] = address != st.session_state.get("_address", address)
    st.session_state["_address"] = address
    st.session_state["_drawn_before"] = set(st.session_state.get("_defaults", ()))
    st.session_state["_defaults"] = {}
    st.session_state["_notices"] = []
    st.session_state.pop("_was_reset", None)


def begin_again() -> bool:
    """Instead of `begin`, where only a page's body runs anew: whether a reset wants the whole page instead."""
    st.session_state["_moved"] = False
    st.session_state["_notices"] = []
    return bool(st.session_state.pop("_was_reset", False))


def end() -> None:
    """Remember the address as this run leaves it, so that what the page itself wrote there is no followed link. Also
    for the end of a fragment with controls, which runs again without `begin`."""
    st.session_state["_address"] = st.query_params.to_dict()
    st.session_state["_moved"] = False


def notices() -> list[str]:
    """Sentences about values in the link that no control could take."""
    return list(st.session_state.get("_notices", []))


def reset() -> None:
    """Set every control of this page (and the sidebar) back to its default, those hidden now too; a widget callback."""
    for key, default in st.session_state.get("_known", {}).items():
        st.session_state[key] = default
    for place in [key for key in st.session_state if str(key).startswith(START)]:
        st.query_params.pop(str(place).removeprefix(START), None)
        del st.session_state[place]
    st.session_state["_resets"] = resets() + 1
    st.session_state["_was_reset"] = True


def resets() -> int:
    """How often this visitor has reset: part of a draggable component's key, so that it too begins anew."""
    return int(st.session_state.get("_resets", 0))


def follow_default(key: str, default: Any) -> Any:
    """The default; a control that still stands on the one of another model or page moves to it."""
    before = st.session_state.get(f"_default_{key}", default)
    st.session_state[f"_default_{key}"] = default
    if before != default and st.session_state.get(key) == before:
        st.session_state[key] = default
    return default


def pick(label: str, options: Sequence[T], default: T, key: str, **more: Any) -> T:
    """One of a few options, as a row of buttons."""
    _register(key, default, [str(option) for option in options])
    value = st.segmented_control(
        label,
        options,
        default=default,
        required=True,
        key=key,
        bind="query-params",
        wrap=True,
        **more,
    )
    return value if value is not None else default


def select(label: str, options: Sequence[T], default: T, key: str, **more: Any) -> T:
    """One of many options, as a menu."""
    _register(key, default, [str(option) for option in options])
    start = list(options).index(default)
    value = st.selectbox(label, options, index=start, key=key, bind="query-params", **more)
    return value if value is not None else default


def steps(label: str, options: Sequence[T], default: T, key: str, **more: Any) -> T:
    """One of a few ordered values, on a slider."""
    _register(key, default, [str(option) for option in options])
    value: T = st.select_slider(label, options, value=default, key=key, bind="query-params", **more)
    return value


def slide(label: str, lo: float, hi: float, default: float, key: str, step: float = 1, **more: Any) -> Any:
    """A number between lo and hi; all four of one type, int or float."""
    _register(key, default, (lo, hi))
    return st.slider(label, lo, hi, default, step, key=key, bind="query-params", **more)


def switch(label: str, default: bool, key: str, **more: Any) -> bool:
    _register(key, default, ["true", "false"])
    return st.toggle(label, default, key=key, bind="query-params", **more)


def line(label: str, default: str, key: str, **more: Any) -> str:
    """A line of text, such as a scheme."""
    _register(key, default, None)
    return st.text_input(label, default, key=key, bind="query-params", **more) or default


def lines(label: str, default: str, key: str, **more: Any) -> str:
    """A few lines of text, such as a prompt."""
    _register(key, default, None)
    return st.text_area(label, default, key=key, bind="query-params", **more) or ""


def one_a_line(label: str, default: str, key: str, **more: Any) -> list[str]:
    """A few lines of text, each a thing by itself: what they hold, each once."""
    return list(dict.fromkeys(one.strip() for one in lines(label, default, key, **more).splitlines() if one.strip()))


def several(label: str, options: Sequence[str], default: list[str], key: str, most: int = 3, **more: Any) -> list[str]:
    """One to `most` of a few options. Raises: ValueError for none or too many."""
    strangers = [asked for asked in st.query_params.get_all(key) if asked not in options]
    _register(key, default, options if strangers else None)
    chosen = st.segmented_control(
        label, options, default=default, selection_mode="multi", key=key, bind="query-params", wrap=True, **more
    )
    if not 1 <= len(chosen) <= most:
        raise ValueError(f"{label}: {len(chosen)} are chosen; choose one to {most}")
    return list(chosen)


def start_numbers(key: str, default: Sequence[float], about: tuple[str, ...]) -> list[float]:
    """Where a draggable component starts: the link's numbers, read once, as long as the page speaks `about` the same.

    Components keep their own state in the browser; this hands them a start that does not move under the hand."""
    place = START + key
    known = st.session_state.get(place)
    if known is None or known[0] != about:
        asked = _numbers(st.query_params.get(key)) if known is None else None
        start = asked if asked is not None and len(asked) == len(default) else list(default)
        if known is None and key in st.query_params and start != asked:
            st.session_state["_notices"].append(
                f"The link's {key}={st.query_params[key][:60]!r} is not {len(default)} numbers; showing the default."
            )
        known = (about, start, list(default))
        st.session_state[place] = known
    return list(known[1])


def keep_numbers(key: str, numbers: Sequence[float]) -> None:
    """Write a component's numbers into the link, or take them out where they are the default."""
    default = st.session_state[START + key][2]
    text = ",".join(f"{number:.6g}" for number in numbers)
    if text == ",".join(f"{number:.6g}" for number in default):
        st.query_params.pop(key, None)
    elif st.query_params.get(key) != text:
        st.query_params[key] = text


def _register(key: str, default: Any, allowed: Sequence[str] | tuple[float, float] | None) -> None:
    """Remember the default; write a notice if the link's value for this control is not among the allowed ones."""
    st.session_state["_defaults"][key] = st.session_state["_known"][key] = default
    asked = st.query_params.get(key)
    _disown(key)
    _follow(key, default, asked)
    if asked is None or allowed is None or key in st.session_state:
        return
    if isinstance(allowed, tuple):
        problem = _outside(asked, allowed)
    else:
        problem = (
            None
            if asked in allowed
            else f"has no such choice (it has {', '.join(allowed[:6])}{' ...' * (len(allowed) > 6)})"
        )
    if problem:
        st.session_state["_notices"].append(
            f"The link asks for {key}={asked[:80]!r}, but this page {problem}; showing {default} instead."
        )


def _disown(key: str) -> None:
    """Forget what another page's control of this name was set to: Streamlit keeps that for as long as a visit lasts,
    for whichever page draws the name next."""
    owners, page = st.session_state.setdefault("_owners", {}), st.session_state["_page"]
    if key not in SHARED and owners.setdefault(key, page) != page:
        st.session_state.pop(key, None)
        owners[key] = page


def _follow(key: str, default: Any, asked: str | None) -> None:
    """Move a control back to its default where a link that was just followed says the default, or nothing.

    Streamlit follows a link only to values other than the default; without this a preset would keep what the user had
    set before, and the address would not say what the page shows."""
    silent = asked is None and key in st.session_state["_drawn_before"]
    stale = st.session_state.get(key, default) != default
    if st.session_state["_moved"] and stale and (silent or asked == str(default)):
        st.session_state[key] = default


def _outside(asked: str, bounds: tuple[float, float]) -> str | None:
    try:
        inside = bounds[0] <= float(asked) <= bounds[1]
    except ValueError:
        inside = False
    return None if inside else f"takes a number from {bounds[0]:g} to {bounds[1]:g}"


def _numbers(text: str | None) -> list[float] | None:
    try:
        values = [float(part) for part in (text or "").split(",")]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None
