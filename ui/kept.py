"""What the server keeps: the labs with their models, the jobs, the store of results; of each visitor, what is its own.

    lab = kept.lab("reference", "cpu")       the visitor's: texts of its own go with the session, all else is shared

A lab remembers its answers itself (`quantcore.lab.memo`), so nothing else on the pages is cached.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from quantcore.lab.house import House, Visit
from quantcore.lab.lab import Lab
from quantcore.lab.start import START, START_BITS, quantized, start_scheme
from quantcore.measure.store import Store
from quantcore.model.locate import REFERENCE, Place, locate
from quantcore.studies.speed_curves import Recorded, read_run
from quantcore.text.files import LoadedText, hub_text
from ui import exports, memory, visitors
from ui.classroom import model_source
from ui.job import doing
from ui.jobs import Jobs
from ui.shelf import Shelf

FIRST_VISIT_S = 8.0  # a visitor who waits for the start gets both cores before the first page's other bits are made
LOAD_AT_ONCE_BYTES = 100_000_000
RECORDED = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def lab(model_id: str, device: str) -> Lab:
    """The lab of a model, as the visitor whose page runs sees it."""
    return shared_lab(model_id, device).for_visitor(_visit())


def shared_lab(model_id: str, device: str) -> Lab:
    """One for all visitors."""
    return shelf().get(model_id, device, _made)


@st.cache_resource
def shelf() -> Shelf:
    """The labs of this server."""
    return Shelf()


def _made(model_id: str, device: str) -> Lab:
    house = House(_spinner, _step, lambda: memory.freeze(len(visitors.sessions())), exports.root, exports.room_for)
    return Lab(model_source(model_id), device, store(), name=model_id, house=house)


@st.cache_resource(scope="session")
def _visit() -> Visit:
    visit = Visit()
    visitors.at_end(visit.end)
    return visit


@st.cache_resource
def jobs() -> Jobs:
    """The long work of this server."""
    return Jobs(visitors.rules())


@st.cache_resource
def store() -> Store:
    """The file of kept results."""
    return Store()


@st.cache_resource(max_entries=8, show_spinner="Asking the hub for the data set ...")
def data_set(name: str) -> LoadedText:
    return hub_text(name)


def takes_long(asked: Lab) -> bool:
    """Whether the model must be downloaded first, or is large: then a job loads it and the page shows how far it is.

    Raises: ValueError for what is no model."""
    if asked.is_loaded or asked.source == REFERENCE:
        return False
    place = locate(asked.source)
    return place is None or place.gguf is not None or _bytes(place) > LOAD_AT_ONCE_BYTES


def load_key(asked: Lab) -> str:
    """The job that loads a model."""
    return f"load|{asked.id}|{asked.device}"


def recorded_runs() -> dict[str, Recorded | str]:
    """What `benchmarks.matmul` left, by file name: the run, or the sentence that says what is wrong with the file."""
    return {path.name: _recorded(str(path), path.stat().st_mtime_ns) for path in sorted(RECORDED.glob("matmul*.json"))}


@st.cache_resource(max_entries=16, show_spinner=False)
def _recorded(path: str, changed_ns: int) -> Recorded | str:
    try:
        return read_run(Path(path))
    except ValueError as error:
        return str(error)


def warm_up(first: Lab) -> None:
    """What the first page asks of the model that comes along, and what every scene reads; what stays is taken out of
    the garbage collector's rounds, which may begin from then on."""
    quantized(first, start_scheme(START))
    memory.freeze(len(visitors.sessions()), collect=False)
    gc.enable()
    time.sleep(FIRST_VISIT_S)
    first.stats()
    for bits in START_BITS:
        quantized(first, start_scheme(bits))
    memory.freeze(len(visitors.sessions()))


@contextmanager
def _spinner(words: str) -> Iterator[None]:
    """Say what takes long: on the page that runs, or in the progress of the job that does."""
    if get_script_run_ctx(suppress_warning=True) is None:
        doing(words.removesuffix(" ..."))
        yield
    else:
        with st.spinner(words):
            yield


def _step(share: float, words: str) -> None:
    doing(words, share)


def _bytes(place: Place) -> int:
    return sum(file.stat().st_size for file in place.folder.glob("*.safetensors"))
