"""What is measured ahead: the questions are those that the pages ask, and a visitor's job comes first."""

from pathlib import Path
from typing import Any

import pytest

from quantcore.lab.lab import Lab
from quantcore.text.reading import EVALUATE
from tests.apptest_helpers import errors, new_server, page, settle
from ui import kept, ready
from ui.course import answers, game
from ui.course.scene import Missing, scenes
from ui.course.scenes import s14_ship

OF_THE_COURSE, USUAL_SCHEMES = ready.of_the_course, ready.usual_schemes


@pytest.fixture
def lab(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    monkeypatch.delenv(ready.VARIABLE)
    monkeypatch.setattr(ready, "step_back", lambda _: None)  # else the rest of the suite runs at it
    monkeypatch.setattr(ready, "LOOK_S", 0.01)
    monkeypatch.setattr(ready, "RULES", ("int4-groups", "int8-tokens"))
    monkeypatch.setattr(ready, "DEFAULT_DUEL", "W8A8\nw:int4/channel")
    monkeypatch.setattr(ready, "of_the_course", lambda _: iter(()))
    monkeypatch.setattr(ready, "usual_schemes", lambda _: iter(()))
    monkeypatch.setattr(ready, "scenes", tuple)
    new_server()
    return kept.shared_lab(str(tiny_model_dir), "cpu")


def test_the_pages_find_what_was_measured_ahead(lab: Lab, tiny_model_dir: Path) -> None:
    ready.get_ready(lab)
    for name in ("7_Scheme_duel", "9_Rules_tested", "13_Context_lens"):
        at = page(name, model=tiny_model_dir).run()
        assert [one for one in errors(at) if "group_size=128" not in one] == []
        assert [job for job in kept.jobs().unfinished() if not job.passing] == []
        assert not at.get("progress")


def test_a_plan_of_any_budget_finds_what_its_layers_cost(
    lab: Lab, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "usual_schemes", USUAL_SCHEMES)
    every = [one for one in ready.questions(lab) if one[0] is Lab.sensitivity]
    monkeypatch.setattr(ready, "questions", lambda _: every)
    ready.get_ready(lab)
    at = settle(page("8_Which_layers_hurt", model=tiny_model_dir))
    plans = {at.code[0].value}
    for budget in (2.5, 3.5, 5.5, 6.5, 7.5):
        at.slider(key="budget").set_value(budget).run()
        plans.add(at.code[0].value)
    assert len(plans) == 6
    assert not [job for job in kept.jobs()._jobs.values() if "schemes for the plan" in job.title]
    for job in kept.jobs().unfinished():  # the last plan's duel
        job.end()
        job.ended.wait(60)


def test_the_course_is_found_ahead(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last scenes from the store, all others from memory: no page of it begins a job."""
    monkeypatch.setattr(s14_ship, "READING", str(EVALUATE.at_most(640)))
    monkeypatch.setattr(game, "JUDGED_ON", str(EVALUATE.at_most(640)))
    monkeypatch.setattr(ready, "questions", OF_THE_COURSE)
    monkeypatch.setattr(ready, "scenes", scenes)
    ready.get_ready(lab)
    found = {scene.key: answers.found(lab, scene) for scene in scenes() if lab.remembers(answers.found, scene)}
    assert list(found) == [scene.key for scene in scenes()]
    for scene in scenes():
        assert isinstance(found[scene.key], Missing) or lab.remembers(answers.revealed, scene)
    asked = list(OF_THE_COURSE(lab))
    assert [question.__name__ for question, _ in asked] == ["rule", "rule", "rule", "sensitivity", "duel"]
    assert all(getattr(lab, f"kept_{question.__name__}")(*known) is not None for question, known in asked)
    monkeypatch.setattr(kept.jobs(), "submit", None)  # whoever begins a job now fails
    for scene in scenes():
        answers.ahead(lab, scene, quick=True)
        assert answers.find(lab, scene) is found[scene.key]


def test_it_makes_room_for_a_visitor_and_comes_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([[], [], ["a job"], ["a job"]])  # it starts, goes on for a layer, is dropped, waits once more

    class Jobs:
        def unfinished(self) -> list[Any]:
            return next(looks, [])

    started = []
    measured = Lab.duel

    def duel(*asked: Any, **more: Any) -> Any:
        started.append(asked)
        return measured(*asked, **more)

    duel.__name__ = "duel"
    monkeypatch.setattr(kept, "jobs", Jobs)
    monkeypatch.setattr(Lab, "duel", duel)
    monkeypatch.setattr(ready, "RULES", ())
    ready.get_ready(lab)
    assert len(started) == 2
    (_, asked), *_ = ready.questions(lab)
    assert lab.kept_duel(*asked) is not None


def test_who_wants_none_of_it_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ready.VARIABLE, "off")
    ready.get_ready(lab)
    (_, asked), *_ = ready.questions(lab)
    assert lab.kept_duel(*asked) is None
