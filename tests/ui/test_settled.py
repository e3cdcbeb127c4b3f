"""What a move asks is a job: progress and Cancel, the pictures before meanwhile, the new ones when it is done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.apptest_helpers import figures_of, new_server, page, said
from ui import kept, settled

LINE, WAIT_S = "cpu (moves)", 60.0


@pytest.fixture
def granularity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    return page("2_Granularity", format="int4")


@contextmanager
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Moves wait in line for as long as this lasts, and no page waits for them."""
    free = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(settled, "SOON_S", 0.0)
        kept.jobs().submit(LINE, f"in the way {id(free)}", "In the way", lambda _: free.wait(WAIT_S))
        yield
        free.set()


def finish() -> None:
    for job in kept.jobs().unfinished():
        assert job.ended.wait(WAIT_S)


def cancel_button(at: AppTest) -> str:
    return next(one.key for one in at.button if one.key and one.key.startswith("cancel_"))


def test_the_first_answer_is_waited_for_with_words(granularity: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow(monkeypatch):
        granularity.run()
        assert figures_of(granularity) == []
        assert cancel_button(granularity)
    finish()
    granularity.run()
    assert len(figures_of(granularity)) == 4


def test_a_move_leaves_the_pictures_until_its_answer_is_there(
    granularity: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    granularity.run()
    with slow(monkeypatch):
        granularity.segmented_control(key="format").set_value("int3").run()
        assert settled.BEFORE in [one.value for one in granularity.caption]
        assert "`w:int4/group" in said(granularity)
        assert len(figures_of(granularity)) == 4
    finish()
    granularity.run()
    assert "`w:int3/group" in said(granularity)
    assert settled.BEFORE not in [one.value for one in granularity.caption]


def test_a_move_that_is_cancelled_asks_nothing(granularity: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    granularity.run()
    with slow(monkeypatch):
        granularity.segmented_control(key="format").set_value("int3").run()
        granularity.button(key=cancel_button(granularity)).click().run()
        assert any("cancelled" in one.value for one in granularity.info)
        assert "`w:int4/group" in said(granularity)
        assert [job.title for job in kept.jobs().unfinished()] == ["In the way"]
    finish()


def test_a_refusal_stands_where_the_answer_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    at = page("5_Layer_lab", a="w:int4/group96", b="w:int4/channel")
    at.run()
    assert [one.value for one in at.error if "group96" in one.value]
    assert not any(button.label == "Run it again" for button in at.button)
    assert figures_of(at)


@pytest.mark.parametrize(
    ("name", "title", "shown"),
    [
        ("16_Take_it_with_you", "W4A16 on model.layers.1.mlp.down_proj", "the median of 512 tokens' outputs"),
        ("14_Which_scheme_should_I_ship", "The candidates on H100 SXM", "First token after"),
    ],
)
def test_the_last_pages_do_not_stand_still_either(
    name: str, title: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    at = page(name)
    at.session_state["layer_report"] = True  # Take's fold, open
    with slow(monkeypatch):
        at.run()
        assert title in [job.title for job in kept.jobs().unfinished()]
        assert cancel_button(at)
        assert shown not in said(at)
    finish()
    at.run()
    assert shown in said(at)
