"""Kept answers: one for all visitors; of a visitor's own text one for that visitor, only as long as the visit."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.runtime.caching import cache_resource_api, clear_session_resource_cache

from quantcore.measure.store import Store
from quantcore.text.files import LoadedText
from tests.apptest_helpers import page
from ui import cached
from ui.kept import Kept, kept

OWN_TEXT = "The key of the lighthouse keeper lies under the third stone. " * 30


class Answer:
    """Something that a weak reference can watch."""


@pytest.fixture
def answer() -> Iterator[Kept[[str], Answer]]:
    @kept(max_entries=8)
    def answer(text_id: str) -> Answer:
        return Answer()

    yield answer
    answer.clear()


@pytest.fixture
def visitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list whose one entry is the session that asks; None: a thread without one, as a job's."""
    here = ["ann"]
    monkeypatch.setattr(cache_resource_api, "get_session_id_or_throw", lambda: here[0])
    for module in ("ui.kept", "ui.cached"):
        monkeypatch.setattr(f"{module}.get_script_run_ctx", lambda suppress_warning: here[0])
    yield here
    for name in ("ann", "bob"):
        clear_session_resource_cache(name)


def test_what_all_may_share_is_made_once(answer: Kept[[str], Answer], visitor: list[str]) -> None:
    first = answer("evaluation/story")
    visitor[0] = "bob"
    assert answer("evaluation/story") is first
    answer.clear("evaluation/story")
    assert answer("evaluation/story") is not first


def test_what_is_made_of_an_own_text_is_made_for_each_visitor(answer: Kept[[str], Answer], visitor: list[str]) -> None:
    anns = answer("own:1")
    assert answer("own:1") is anns
    visitor[0] = "bob"
    assert answer("own:1") is not anns


def test_it_goes_with_the_visitor(answer: Kept[[str], Answer], visitor: list[str]) -> None:
    mark = weakref.ref(answer("own:1"))
    clear_session_resource_cache("bob")
    assert mark() is not None
    clear_session_resource_cache("ann")  # what Streamlit does when a browser has gone
    gc.collect()
    assert mark() is None


def test_a_job_has_no_session_and_keeps_nothing(
    answer: Kept[[str], Answer], visitor: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.kept.get_script_run_ctx", lambda suppress_warning: None)
    assert answer("own:1") is not answer("own:1")


def test_a_text_is_its_visitors_alone_and_goes_too(visitor: list[str]) -> None:
    text = LoadedText("your text", (OWN_TEXT,))
    mark, text_id = weakref.ref(text), cached.texts().keep(text)
    del text
    assert cached.loaded_text(text_id).documents == (OWN_TEXT,)
    visitor[0] = "bob"
    with pytest.raises(ValueError, match="is not here .any more.; paste it, upload it or read it again"):
        cached.loaded_text(text_id)
    clear_session_resource_cache("ann")
    gc.collect()
    assert mark() is None


def test_no_file_keeps_what_was_measured_on_an_own_text(visitor: list[str], tmp_path: Path) -> None:
    """The store's rows hold the likeliest tokens of every place: a text could be read off them."""
    ours, own = cached.store_for("evaluation/all", "calibration/all"), cached.store_for("evaluation/all", "own:1|4x64")
    assert ours is cached.store()
    assert own is not ours
    assert own is cached.store_for("own:2", "calibration/all")
    visitor[0] = "bob"
    assert cached.store_for("own:2") is not own


def test_a_duel_on_an_own_text_leaves_no_row(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ui.test_page_duel import settle

    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "kept"))
    cached.store.clear()
    state = {"text": "own text", "own": OWN_TEXT, "from": "the sidebar's", "duel": "w:int4/group16\nw:int8/channel"}
    at = settle(page("7_Scheme_duel", model=tiny_model_dir, **state))
    assert not at.error
    assert [one for one in at.download_button if one.key == "json"] or "KL" in str(at.markdown)
    assert Store(tmp_path / "kept").count() == 0
    cached.store.clear()
