"""What a visitor brings stays with the visitor: texts, what is made of them, and no file remembers them."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.runtime.caching import cache_resource_api, clear_session_resource_cache

from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.text.files import LoadedText
from tests.apptest_helpers import new_server, page, settle
from ui import kept

OWN_TEXT = "The key of the lighthouse keeper lies under the third stone. " * 30
LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture
def visitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list whose one entry is the session that asks."""
    here = ["ann"]
    monkeypatch.setattr(cache_resource_api, "get_session_id_or_throw", lambda: here[0])
    yield here
    for name in ("ann", "bob"):
        clear_session_resource_cache(name)


@pytest.fixture
def open_lab(visitor: list[str], tiny_model_dir: Path) -> Callable[[], Lab]:
    """The lab as the session that asks sees it."""
    new_server()
    return lambda: kept.lab(str(tiny_model_dir), "cpu")


def test_what_all_may_share_is_made_once(open_lab: Callable[[], Lab], visitor: list[str]) -> None:
    lab = open_lab()
    visitor[0] = "bob"
    bobs = open_lab()
    assert bobs is not lab
    assert bobs.loaded is lab.loaded
    assert bobs.channels(LAYER) is lab.channels(LAYER)


def test_what_is_made_of_an_own_text_is_made_for_each_visitor(open_lab: Callable[[], Lab], visitor: list[str]) -> None:
    lab = open_lab()
    reading = f"{lab.read(LoadedText('ann.txt', (OWN_TEXT,)))}|1x64"
    visitor[0] = "bob"
    bobs = open_lab()
    with pytest.raises(ValueError, match="is not here .any more."):
        bobs.channels(LAYER, reading)
    bobs.read(LoadedText("bob.txt", (OWN_TEXT,)))  # the same words: still another answer
    assert bobs.channels(LAYER, reading) is not lab.channels(LAYER, reading)
    visitor[0] = "ann"
    assert open_lab().channels(LAYER, reading) is lab.channels(LAYER, reading)


def test_it_goes_with_the_visitor(open_lab: Callable[[], Lab]) -> None:
    lab = open_lab()
    text = LoadedText("ann.txt", (OWN_TEXT,))
    reading = f"{lab.read(text)}|1x64"
    marks = weakref.ref(text), weakref.ref(lab.channels(LAYER, reading))
    del text, lab
    clear_session_resource_cache("bob")
    assert all(mark() is not None for mark in marks)
    clear_session_resource_cache("ann")  # what Streamlit does when a browser has gone
    gc.collect()
    assert all(mark() is None for mark in marks)


def test_a_prompt_of_the_visitors_own_is_kept_as_an_own_text_is(
    open_lab: Callable[[], Lab], visitor: list[str]
) -> None:
    lab = open_lab()
    ours, anns = lab.likeliest("w:int4/channel"), lab.likeliest("w:int4/channel", "A lamp of mine")
    visitor[0] = "bob"
    bobs = open_lab()
    assert bobs.likeliest("w:int4/channel") is ours
    assert bobs.likeliest("w:int4/channel", "A lamp of mine") is not anns


def test_a_model_that_the_server_let_go_is_not_held_by_a_visitor(open_lab: Callable[[], Lab]) -> None:
    lab = open_lab()
    mark = weakref.ref(lab.loaded)
    lab.read(LoadedText("ann.txt", (OWN_TEXT,)))
    del lab
    kept.shelf.clear()
    gc.collect()
    assert mark() is None


def test_a_duel_on_an_own_text_leaves_no_row(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's rows hold the likeliest tokens of every place: a text could be read off them."""
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "kept"))
    new_server()
    state = {"text": "own text", "own": OWN_TEXT, "from": "the sidebar's", "duel": "w:int4/group16\nw:int8/channel"}
    at = settle(page("7_Scheme_duel", model=tiny_model_dir, **state))
    assert not at.error
    assert [one for one in at.get("download_button") if "JSON" in one.label]
    assert Store(tmp_path / "kept").count() == 0
    new_server()
