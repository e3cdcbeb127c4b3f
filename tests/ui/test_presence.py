"""Tabs that are closed: their sessions end after a while, with what they brought; open ones stay."""

import gc
import tomllib
import weakref
from collections.abc import Iterator

import pytest

from tests.apptest_helpers import ROOT
from ui import memory, visitors
from ui.classroom import GONE_S
from ui.server.presence import close_left


class Runtime:
    """As much of Streamlit's as is asked."""

    def __init__(self, *active: str) -> None:
        self.active, self.closed = set(active), list[str]()

    def is_active_session(self, session: str) -> bool:
        return session in self.active

    def close_session(self, session: str) -> None:
        self.closed.append(session)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which visits have ended; Ann and Bob are here."""
    done: list[str] = []
    monkeypatch.setattr(visitors, "_sessions", {name: [lambda name=name: done.append(name)] for name in ("ann", "bob")})
    return done


def test_a_session_ends_a_while_after_its_tab_was_closed(ended: list[str]) -> None:
    runtime, away = Runtime("bob"), dict[str, float]()
    assert close_left(runtime, away, 100.0) == 0
    assert close_left(runtime, away, 100.0 + GONE_S - 1) == 0
    assert (runtime.closed, ended) == ([], [])
    assert close_left(runtime, away, 100.0 + GONE_S) == 1
    assert (runtime.closed, ended) == (["ann"], ["ann"])
    assert visitors.sessions() == ["bob"]
    assert close_left(runtime, away, 900.0) == 0


def test_a_tab_that_comes_back_in_time_begins_anew(ended: list[str]) -> None:
    runtime, away = Runtime("bob"), dict[str, float]()
    close_left(runtime, away, 100.0)
    runtime.active.add("ann")
    close_left(runtime, away, 100.0 + GONE_S)
    runtime.active.discard("ann")
    assert close_left(runtime, away, 101.0 + GONE_S) == 0
    assert close_left(runtime, away, 101.0 + 2 * GONE_S) == 1
    assert ended == ["ann"]


class Ring:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def thawed() -> Iterator[int]:
    """How many objects are frozen before anybody freezes: Python 3.12 sets aside those that are immortal. What a test
    freezes is not frozen for the others."""
    gc.unfreeze()
    gc.collect()
    yield gc.get_freeze_count()
    gc.unfreeze()
    memory.collect(0)


def test_what_was_caught_in_a_freeze_is_freed(thawed: int) -> None:
    ring = weakref.ref(caught := Ring())
    memory.freeze(sessions=1)
    del caught
    gc.collect()
    assert ring() is not None  # frozen: the collector does not look at it
    memory.collect(0)
    assert ring() is None
    assert gc.get_freeze_count() > thawed  # what stays is frozen again


def test_one_round_collects_for_all_scripts_since_the_last() -> None:
    rounds = memory.tidy(seen=-1)
    ring = weakref.ref(Ring())
    assert memory.tidy(rounds) == rounds
    assert ring() is not None  # nothing was made that could have brought a young round: no full one either
    rounds = gc.get_stats()[0]["collections"]
    gc.disable()
    try:
        memory.tidy(rounds - 1)
        assert ring() is not None  # the server imports
    finally:
        gc.enable()
    memory.tidy(rounds - 1)
    assert ring() is None


def test_streamlit_itself_does_not_collect_after_each_script() -> None:
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert settings["runner"]["postScriptGC"] is False


def test_a_long_round_freezes_what_it_left_alive(thawed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(gc.callbacks)
    try:
        memory.keep_rounds_short(lambda: 1)
        monkeypatch.setattr(memory, "LONG_S", 60.0)
        gc.collect()
        assert gc.get_freeze_count() == thawed
        monkeypatch.setattr(memory, "LONG_S", 0.0)
        gc.collect()
        assert gc.get_freeze_count() > thawed
        assert memory.caught()  # somebody was there: a later collection looks at all of it again
    finally:
        gc.callbacks[:] = before


def test_who_is_still_there_at_a_collection_is_caught_again(thawed: None) -> None:
    memory.freeze(sessions=1)
    memory.collect(sessions=1)
    assert memory.caught()
    memory.collect(sessions=0)
    assert not memory.caught()
