"""Widgets that live in the URL, and the sidebar: the only file that touches a widget's key or a URL parameter.

Every control is bound to a URL parameter of its key's name, so a link holds the page's whole state, and remembers its
default, so that reset needs no list. A value in a link that a control cannot hold is not silently dropped: `notices`
has one sentence about it for the page to show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from quantcore.lab.bench import LEARNED, READ, TextFacts, is_own
from quantcore.lab.house import default_device
from quantcore.lab.lab import Lab
from quantcore.model.catalog import CATALOG, Entry, cached_models, on_this_machine
from quantcore.model.loading import REFERENCE, devices
from quantcore.model.memory import TooLarge
from quantcore.text.files import DATA_SETS, KINDS, LONGEST_FILE_MB, LoadedText, read_content
from quantcore.text.reading import CALIBRATE, STUDY, Reading
from quantcore.text.windows import LONGEST_TEXT_BYTES, TEXT_KINDS
from ui import job_view, kept
from ui.classroom import classroom, without_paths
from ui.markdown import as_is, code

T = TypeVar("T", bound="str | int | float")
OWN, DATA_SET = "own text", "data set"
START = "_start_"
OUR_OWN, PASTED = "our own", "your text"
SHARED = (
    *("model", "device", "layer", "text", "own", "dataset", "sequences", "length", "chat"),
    *("learn_from", "learn_own", "learn_dataset", "learn_sequences", "learn_length", "learn_chat"),
)
LOADER = "the loader"  # the line in which models wait to be loaded
SEQUENCES, LENGTHS = (1, 2, 4, 8), (64, 128, 256, 512)
LEARN_SEQUENCES = (4, 8, 16, 32, 64)
KEEPER = "The lighthouse keeper climbed the stairs and"
LEARN_HELP = "What static ranges and GPTQ learn from. The map of layers rounds to nearest, which learns from no text."
UPLOAD_HELP = (
    "UTF-8 text, or documents: .jsonl with a field `text` (or `messages`), .parquet with such a column; a file of at "
    f"most {LONGEST_FILE_MB} MB, with {LONGEST_TEXT_BYTES / 1e6:.0f} MB of text in it. A file's text is not in the "
    "link: who follows it sees the pasted text."
)
DATA_SET_HELP = "`wikitext-2`, `owner/name`, or `owner/name:file.parquet`; its text is in a column `text` or `messages`"
CHAT_HELP = "Each document becomes a conversation as the model was trained on; a plain one is the user's first turn."
MOST_TOKENS = 2048  # that a page's studies read of a text


@dataclass(frozen=True)
class Choice:
    """What the sidebar says: the lab of a model on a device, a layer, and the readings of two texts: what the model
    reads, and what static ranges and GPTQ learn from."""

    lab: Lab
    layer: str
    reading: str = READ
    calibration: str = LEARNED


def begin(path: str) -> None:
    """Forget the controls and notices of the last run; call once, before the first control of the page `path`."""
    if st.session_state.get("_page") != path:
        st.session_state["_page"], st.session_state["_known"] = path, {}
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


def sidebar() -> Choice | None:
    """Model, layer, text, device: shared by all pages; None while the model is on its way, which the page shows.

    Raises: ValueError if the model cannot be loaded."""
    with st.sidebar:
        lab = kept.lab(_model(), _device())
    if kept.takes_long(lab):
        key, title = kept.load_key(lab), f"Loading {lab.id}"
        if job_view.result_of(LOADER, key, title, lambda progress: _load(lab, progress)) is None:
            return None
    kept.jobs().forget(kept.load_key(lab))
    with st.sidebar:
        names = list(lab.layers())
        if (wanted := st.session_state.pop("_open_layer", None)) in names:
            st.session_state["layer"] = wanted
        layer = select("Layer", names, lab.default_layer(), "layer")
        kinds = [*TEXT_KINDS, *_own_kinds()]
        kind = pick("Text that the model reads", kinds, TEXT_KINDS[0], "text")
        source = f"evaluation/{kind}"
        if kind in (OWN, DATA_SET):
            source = lab.read(_own_text() if kind == OWN else _data_set())
        reading, calibration = _reading(lab, source), _calibration(lab)
        if lab.is_loaded:
            for notice in lab.loaded.notices:
                st.info(as_is(without_paths(notice)))
    return Choice(lab, layer, reading, calibration)


def _model() -> str:
    """Which model: any that the server's user may read, or in a class one of the teacher's list, before anything else
    is asked of it."""
    here = classroom()
    if here is not None:
        return select("Model", list(here.models), REFERENCE, "model")
    model_id = line("Model", REFERENCE, "model", help="`reference`, a folder, a GGUF file, or a hub id").strip()
    models_to_try()
    return model_id


def _load(lab: Lab, progress: job_view.Progress) -> bool:
    """The job of loading; of what is too large here the refusal names the way that is left."""
    try:
        lab.load(progress)
        return True
    except TooLarge as error:
        if Path(lab.source).is_file():  # a GGUF
            raise
        command = f"python -m quantcore quantize --model {lab.id}"
        raise ValueError(f"{error}; or work from a shell, where it stays in its files: `{command} ...`") from error


def models_to_try() -> None:
    """A list of instructive models, and of those in the hub's cache; looked up when it is opened."""
    with st.popover("Models to try", width="stretch", key="models", on_change="rerun") as opened:
        if not opened.open:
            return
        st.caption("Or type any hub id, folder or GGUF file above. A revision may follow: `owner/name@revision`.")
        listed = {entry.id for entry in CATALOG}
        others = [Entry(one, "", "in the hub's cache") for one in cached_models() if one not in listed]
        for entry in (*CATALOG, *others):
            here = " :green-badge[on this machine]" if on_this_machine(entry.id) else ""
            with st.container(gap=None):
                st.button(
                    as_is(entry.id), key=f"try_{entry.id}", on_click=_take_model, args=(entry.id,), type="tertiary"
                )
                st.caption(f"{entry.size}{': ' * bool(entry.size)}{entry.why}{here}")


def _take_model(model_id: str) -> None:
    st.session_state["model"] = model_id
    st.session_state["models"] = False


def open_layer(name: str) -> None:
    """Make `name` the sidebar's layer, from anywhere on the page: a rerun, because the menu is already drawn."""
    st.session_state["_open_layer"] = name
    st.rerun()


def shared_state() -> dict[str, str]:
    """The sidebar's part of the URL, as it stands: what a link to another page takes along."""
    return {key: st.query_params[key] for key in SHARED if key in st.query_params}


def _own_kinds() -> list[str]:
    """A text of the visitor's own; a data set where the server may ask the hub for whatever a visitor names."""
    return [OWN] if classroom() else [OWN, DATA_SET]


def _device() -> str:
    known = [default_device()] if classroom() else devices()
    return pick("Device", known, default_device(), "device") if len(known) > 1 else known[0]


def _own_text(prefix: str = "") -> LoadedText:
    pasted = lines("Your text", KEEPER, f"{prefix}own", max_chars=4000, height=120)
    key = f"{prefix}upload"
    upload = st.file_uploader("or a file", type=list(KINDS), key=key, max_upload_size=LONGEST_FILE_MB, help=UPLOAD_HELP)
    if upload is None:
        return LoadedText(PASTED, (pasted,))
    st.caption(f"{code(upload.name)} is read. It stays on the server for this session and is **not in the link**.")
    known = st.session_state.get(f"_{key}")
    if known is None or known[0] != upload.file_id:
        known = st.session_state[f"_{key}"] = (upload.file_id, read_content(upload.name, upload.getvalue()))
    content: LoadedText = known[1]
    return content


def _data_set(prefix: str = "") -> LoadedText:
    name = line("Data set of the hub", next(iter(DATA_SETS)), f"{prefix}dataset", help=DATA_SET_HELP).strip()
    return kept.data_set(name)


def _reading(lab: Lab, source: str) -> str:
    """How much of the text is read, and how. What it comes to is counted where somebody looks."""
    with st.expander("What exactly is read", key="reading", on_change="rerun") as opened:
        length = steps("Tokens a sequence", LENGTHS, STUDY.length, "length")
        sequences = steps("Sequences", SEQUENCES, STUDY.windows, "sequences")
        if sequences * length > MOST_TOKENS:
            raise ValueError(
                f"{sequences} sequences of {length} tokens are {sequences * length:,}, and the pages draw at most "
                f"{MOST_TOKENS:,}; take fewer or shorter ones"
            )
        own = is_own(source)
        reading = str(Reading(source, sequences, length, own and _chat(lab)))
        if opened.open:
            st.code(lab.text_facts(reading).start, language=None, wrap_lines=True, height=160)
            st.caption(f"Model {code(lab.id)}, revision {code(lab.loaded.revision)}")
    if own or opened.open:
        st.caption(_counted(lab.text_facts(reading)))
    return reading


def _calibration(lab: Lab) -> str:
    """What static ranges and GPTQ learn from."""
    with st.expander("Calibration text", key="calibrating", on_change="rerun") as opened:
        kind = pick("Ranges and GPTQ learn from", [OUR_OWN, *_own_kinds()], OUR_OWN, "learn_from", help=LEARN_HELP)
        if kind == OUR_OWN:
            st.caption("An equal share of each of the five kinds; the page says how many tokens.")
            return LEARNED
        source = lab.read(_own_text("learn_") if kind == OWN else _data_set("learn_"))
        length = steps("Tokens a sequence", LENGTHS, CALIBRATE.length, "learn_length")
        sequences = steps("Sequences", LEARN_SEQUENCES, 16, "learn_sequences")
        reading = str(Reading(source, sequences, length, _chat(lab, "learn_")))
        facts = lab.text_facts(reading)
        if opened.open:
            st.code(facts.start, language=None, wrap_lines=True, height=120)
    st.caption(f"Calibration: {_counted(facts)}")
    return reading


def _chat(lab: Lab, prefix: str = "") -> bool:
    """Whether a visitor's text stands in the chat template; offered where there is one."""
    key = f"{prefix}chat"
    has = bool(getattr(lab.loaded.tokenizer, "chat_template", None))
    offered = has or st.query_params.get(key) == "true"
    return offered and switch("in the model's chat template", False, key, help=CHAT_HELP)


def _counted(facts: TextFacts) -> str:
    return (
        f"{facts.documents:,} document{'s' * (facts.documents != 1)}, **{facts.tokens:,} tokens**; the pages read "
        f"{facts.read[0]} sequence{'s' * (facts.read[0] != 1)} of {facts.read[1]}. SHA-256 `{facts.hash}`"
    )


def _register(key: str, default: Any, allowed: Sequence[str] | tuple[float, float] | None) -> None:
    """Remember the default; write a notice if the link's value for this control is not among the allowed ones."""
    st.session_state["_defaults"][key] = st.session_state["_known"][key] = default
    asked = st.query_params.get(key)
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
