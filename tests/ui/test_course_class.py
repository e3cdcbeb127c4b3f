"""A class on the course's page: who may present, what a follower sees, what becomes of hostile guesses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.apptest_helpers import errors, new_server, page, said, settle
from ui import kept, visitors
from ui.classroom import teachers_word
from ui.course import answers
from ui.course.present import KEY, rooms
from ui.course.rooms import Room
from ui.course.scene import scenes
from ui.jobs import Asker

CLIP = next(number for number, scene in enumerate(scenes(), 1) if scene.key == "clip")


@pytest.fixture(autouse=True)
def in_class(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("QUANT_CLASS", f"reference,{tiny_model_dir}")
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "home"))
    new_server()
    rooms.clear()
    monkeypatch.setattr(visitors, "asker", lambda: Asker("teacher", "teacher"))  # a test's cookies change at every look
    yield
    rooms.clear()


@pytest.fixture
def model(tiny_model_dir: Path) -> str:
    return tiny_model_dir.name


def teacher(model: str) -> tuple[AppTest, Room]:
    """The teacher's page at the scene Clip, presenting."""
    at = settle(page("0_Course", model=model, scene=CLIP, teacher=teachers_word()))
    next(one for one in at.button if one.label == "Present to a class").click()
    settle(at)
    assert errors(at) == []
    (room,) = rooms().all()
    return at, room


def student(room: Room, name: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(visitors, "asker", lambda: Asker(name, name))
    at = page("0_Course", join=room.code)
    return settle(at)


def test_only_the_teacher_may_open_a_class(model: str) -> None:
    for word in ("", "wrong"):
        at = settle(page("0_Course", model=model, scene=CLIP, teacher=word))
        assert "Present to a class" not in [one.label for one in at.button]
    at, room = teacher(model)
    assert room.code in at.code[0].value
    assert room.scene == CLIP - 1
    assert room.key not in "\n".join(str(one.proto) for one in at.main if hasattr(one, "proto"))


def test_a_session_with_a_guessed_key_presents_nothing(model: str) -> None:
    _, room = teacher(model)
    stranger = page("0_Course", model=model, scene=CLIP)
    stranger.session_state[KEY] = (room.code, "guessed")
    settle(stranger)
    assert not [one for one in stranger.button if one.label == "End the class"]
    stranger.button(key="course_next").click()
    settle(stranger)
    assert room.scene == CLIP - 1


def test_a_page_loaded_anew_takes_up_the_class_where_it_is(model: str) -> None:
    _, room = teacher(model)
    room.go(CLIP)
    room.show()
    again = settle(page("0_Course", model=model, scene=1))  # the word has gone from the link, the browser is the same
    next(one for one in again.button if one.label == f"Go on presenting {room.code}").click()
    settle(again)
    assert errors(again) == []
    assert again.title[0].value == scenes()[CLIP].ask
    assert (room.scene, room.shown) == (CLIP, True)
    assert "**But:**" in said(again)  # the answer stands there


def test_a_class_follows_its_presenter_through_the_browsers_history(model: str) -> None:
    at, room = teacher(model)
    at.query_params["scene"] = "1"
    settle(at)
    assert (room.scene, at.title[0].value) == (0, scenes()[0].ask)
    assert "**0** of 0 guessed" in said(at)
    room.go(CLIP)  # as another page of the presenter's would
    settle(at)
    assert room.scene == CLIP  # this page has not moved
    room.go(len(scenes()))  # the last game, where nobody guesses
    settle(at)
    assert "**0** follow" in said(at)
    assert "guessed" not in said(at)


def test_another_browser_is_no_teachers(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, room = teacher(model)
    monkeypatch.setattr(visitors, "asker", lambda: Asker("ann", "ann"))
    ann = settle(page("0_Course", model=model, scene=1))
    labels = [one.label for one in ann.button]
    assert "Present to a class" not in labels
    assert f"Go on presenting {room.code}" not in labels


def test_a_class_follows_its_presenter_to_another_model(model: str) -> None:
    at, room = teacher(model)
    room.guess("ann", "30")
    assert room.model == model
    elsewhere = settle(page("0_Course", scene=CLIP, teacher=teachers_word()))
    next(one for one in elsewhere.button if one.label == f"Go on presenting {room.code}").click()
    settle(elsewhere)
    assert (room.model, room.scene, room.guesses) == ("reference", CLIP - 1, [])


def test_followers_guess_and_see_the_answer_when_it_is_shown(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at, room = teacher(model)
    ann = student(room, "ann", monkeypatch)
    assert errors(ann) == []
    assert ann.title[0].value == scenes()[CLIP - 1].ask
    assert "The answer comes when your teacher shows it." in said(ann)
    for label in ("Show", "Next ▶", "Guess again", "Present to a class"):
        assert label not in [one.label for one in ann.button]
    key = f"follow_{room.code}_{room.version}"
    ann.session_state[key] = {"value": {"text": "30", "start_id": f"{key}/None"}}
    ann.run()
    assert room.guesses == ["30"]
    assert "Your guess: **30%**" in said(ann)
    bob = student(room, "bob", monkeypatch)
    bob.session_state[key] = {"value": {"text": "50", "start_id": f"{key}/None"}}
    bob.run()
    assert room.guesses == ["30", "50"]
    at.button(key="course_show").click()
    settle(at)
    assert room.shown
    assert "2 guesses" in said(at)
    shown = answers.revealed(kept.shared_lab(model, "cpu"), scenes()[CLIP - 1])
    bob.run()
    assert shown.answer in said(bob)
    assert "You said 50%" in said(bob)
    assert "2 guesses" in said(bob)
    at.button(key="course_next").click()
    settle(at)
    bob.run()
    assert bob.title[0].value == scenes()[CLIP].ask
    assert room.guesses == []


@pytest.mark.parametrize("text", ["nan", "-5", "1e9", "<script>", "4" * 9000, "", None, 7, {"a": 1}])
def test_a_hostile_guess_is_none(text: object, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, room = teacher(model)
    ann = student(room, "ann", monkeypatch)
    key = f"follow_{room.code}_{room.version}"
    ann.session_state[key] = {"value": {"text": text, "start_id": f"{key}/None"}}
    ann.run()
    assert errors(ann) == []
    assert not ann.exception
    assert room.guesses == []


@pytest.mark.parametrize("code", ["", "AAAAAA", "<b>", "A" * 5000, "../../x"])
def test_a_code_of_no_class_is_said(code: str) -> None:
    at = settle(page("0_Course", join=code))
    assert "No class is open under this name" in errors(at)[0]
    assert not at.exception


def test_a_class_that_ended_is_said(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at, room = teacher(model)
    ann = student(room, "ann", monkeypatch)
    next(one for one in at.button if one.label == "End the class").click()
    settle(at)
    ann.run()
    assert (errors(ann), ann.title[0].value) == ([], "The class has ended")
    next(one for one in ann.button if one.label == "To the course").click().run()
    assert ann.title[0].value == scenes()[0].ask  # and the code is gone, else the course would ask for another
    ben = page("0_Course", join=room.code).run()
    assert "No class is open under this name" in errors(ben)[0]
