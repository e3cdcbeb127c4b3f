"""The sidebar: which model, layer, device and texts, the same on every page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from quantcore.lab.bench import LEARNED, READ, TextFacts, is_own
from quantcore.lab.house import default_device
from quantcore.lab.lab import Lab
from quantcore.model.catalog import CATALOG, Entry, cached_models, on_this_machine
from quantcore.model.layer_names import expert_of
from quantcore.model.loading import devices
from quantcore.model.locate import REFERENCE
from quantcore.model.memory import TooLarge
from quantcore.text.files import DATA_SETS, KINDS, LONGEST_FILE_MB, LoadedText, read_content
from quantcore.text.reading import CALIBRATE, STUDY, Reading
from quantcore.text.windows import LONGEST_TEXT_BYTES, TEXT_KINDS
from ui import job_view, kept
from ui.classroom import classroom, without_paths
from ui.markdown import as_is, code
from ui.settled import settled
from ui.widgets import SHARED, follow_default, line, lines, pick, select, steps, switch

OWN, DATA_SET = "own text", "data set"
OUR_OWN, PASTED = "our own", "your text"
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
ALL_KINDS, SIDEBAR = "all five kinds", "the sidebar's"
MOST_TOKENS = 2048  # that a page's studies read of a text


@dataclass(frozen=True)
class Choice:
    """What the sidebar says: the lab of a model on a device, a layer, and the readings of two texts: what the model
    reads, and what static ranges and GPTQ learn from."""

    lab: Lab
    layer: str
    reading: str = READ
    calibration: str = LEARNED

    def kind_of_text(self, usual: Reading) -> Reading:
        """What a page reads, by a control: the `usual` text of all kinds, or as much of the sidebar's kind."""
        where = pick("Text", [ALL_KINDS, SIDEBAR], ALL_KINDS, "from")
        return usual if where == ALL_KINDS else usual.of(Reading.parse(self.reading))


def sidebar(first: Callable[[Lab], str] | None = None) -> Choice | None:
    """Model, layer, text, device: shared by all pages; None while the model is on its way, which the page shows.

    first   the layer that the page opens on, where it has one of its own

    Raises: ValueError if the model cannot be loaded."""
    with st.sidebar:
        lab = kept.lab(_model(), _device())
    if kept.takes_long(lab):
        key, title = kept.load_key(lab), f"Loading {lab.id}"
        if job_view.result_of(LOADER, key, title, lambda progress: _load(lab, progress), place=LOADER) is None:
            return None
    kept.jobs().forget(kept.load_key(lab))
    opens = Lab.default_layer if first is None else first
    known = lab.source == REFERENCE and first is None  # nothing is read for it
    if not known and settled("first layer", "Reading what enters every layer", lab, (), lambda: [(opens,)]) is None:
        return None
    with st.sidebar:
        layer = _layer(list(lab.layers()), opens(lab))
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


def _layer(names: list[str], default: str) -> str:
    """Which layer; of a mixture's thousands first which kind, then which expert."""
    menu: dict[str, dict[int, str]] = {}
    for name in names:
        kind, number = _in_menu(name)
        menu.setdefault(kind, {})[number] = name
    asked, opened = st.query_params.get("layer", ""), st.session_state.pop("_open_layer", "")
    for name in ("" if asked in menu else asked, opened):  # a link may name an expert's layer in full
        if name in names:
            st.session_state["layer"], number = _in_menu(name)
            if expert_of(name) is not None:
                if "expert" not in st.session_state:  # a link from elsewhere: what it says stays in the address
                    st.query_params["expert"] = str(number)
                st.session_state["expert"] = number
    usual, number = _in_menu(default)
    kind = select("Layer", list(menu), follow_default("layer", usual), "layer")
    numbers = list(menu[kind])
    if len(numbers) == 1:
        return menu[kind][numbers[0]]
    return menu[kind][select("Expert", numbers, number if number in numbers else numbers[0], "expert")]


def _in_menu(name: str) -> tuple[str, int]:
    """A layer's line in the menu, and which expert of that line it is."""
    found = expert_of(name)
    return (name, 0) if found is None else (f"{found[0]}.*.{found[2]}", found[1])


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
        progress(1.0, "hashing the weights")
        # Results are kept by the one, reports name the other: no page need wait for it.
        with ThreadPoolExecutor(1) as beside:
            beside.submit(lambda: lab.whole.revision)
            return bool(lab.hash)
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


def carried(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a link to a page in a given state says: the sidebar's part of the URL, as it stands, then the state. An
    expert's layer goes as its line in the menu and the expert's number, the way the page's controls say it."""
    said = st.query_params.to_dict()
    params = {**{key: said[key] for key in SHARED if key in said}, **state}
    if expert_of(params.get("layer", "")) is not None:
        kind, number = _in_menu(params["layer"])
        params |= {"layer": kind, "expert": str(number)}
    return params


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
        with st.spinner("Reading the file ..."):
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
        f"{facts.documents:,} document{'s' * (facts.documents != 1)}, **{'more than ' * facts.more}{facts.tokens:,} "
        "tokens**; the pages read "
        f"{facts.read[0]} sequence{'s' * (facts.read[0] != 1)} of {facts.read[1]}. SHA-256 `{facts.hash}`"
    )
