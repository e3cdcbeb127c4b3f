"""The page Which layers hurt: the map is the engine's, the plan keeps its budget and is measured beside its rivals."""

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.measure.fisher import estimated_costs
from quantcore.measure.sensitivity import Sensitivity, sensitivity
from quantcore.model.loading import LoadedModel
from quantcore.scheme.plan import Plan
from quantcore.text.reading import EVALUATE, Texts
from tests.apptest_helpers import figure_of, figures_of, lab_of, new_server, settle, values
from tests.apptest_helpers import page as open_page
from ui import answers, job_view, kept
from ui.sections import plan as plan_section
from ui.sections.plan import DUEL, timed_schemes
from ui.settled import BEFORE
from ui.words import sensitivity as words


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one test has measured the next finds, each on a server of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def page(tiny_model_dir: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(home))
    new_server()
    return open_page("8_Which_layers_hurt", model=tiny_model_dir, grain="group32", budget=4.0)


def test_alive_without_a_click_and_true(page: AppTest, tiny_lm: LoadedModel) -> None:
    settle(page)
    assert not page.error
    assert [shown["key"] for shown in figures_of(page)] == ["map", "ranking", "plan_map", "budgets"]
    tokens = replace(EVALUATE, source="calibration/all").at_most(640).tokens(tiny_lm, Texts())  # chosen on one text
    found = sensitivity(tiny_lm.model, ["w:int3/group32"], tokens)
    worst = found.ranked("w:int3/group32")
    shown = figure_of(page, "ranking")["figure"]["data"][0]
    assert list(shown["y"]) == [name.removeprefix("model.") for name in worst[: len(shown["y"])]]
    assert values(shown["x"])[0] == pytest.approx(found.alone[worst[0], "w:int3/group32"], rel=1e-4)


def test_the_plan_keeps_its_budget_and_is_measured(page: AppTest) -> None:
    settle(page)
    plan = Plan.parse(page.code[0].value)
    assert plan.overrides
    said = next(one.value for one in page.markdown if "The plan takes" in one.value)
    assert float(said.split("The plan takes **")[1].split("**")[0]) <= 4.0
    verdict = [one.value for one in page.markdown][[one.value for one in page.markdown].index(said) - 1]  # its headline
    assert verdict.startswith(("**Within chance**", "The plan loses less (", "The plan loses more ("))
    assert "On another text," in said
    assert "w:int3/group32 for all takes 3.500 bits" in said
    drawn, *colours = figure_of(page, "plan_map")["figure"]["data"]
    bits = {one for row in drawn["text"] for one in row if one}
    assert bits <= {one["name"].removesuffix(" bits") for one in colours}
    assert len({one["marker"]["color"] for one in colours}) == len(colours)  # a colour is one number of bits
    names = [trace.get("name") for trace in figure_of(page, "budgets")["figure"]["data"]]
    assert names == [
        "plans, predicted",
        "one scheme for all, estimated",
        "this plan, another text",
        "w:int3/group32, another text",
    ]


def test_the_plan_before_stays_while_other_costs_are_found(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(page)
    before = page.code[0].value, figure_of(page, "plan_map")["figure"], figure_of(page, "budgets")["figure"]
    assert BEFORE not in [one.value for one in page.caption]
    left: list[str] = []
    monkeypatch.setattr(answers.job_view, "result_of", lambda *_, **__: None)  # whatever is asked takes long
    monkeypatch.setattr(answers.job_view, "leave", left.append)
    page.slider(key="budget").set_value(6.0).run()
    assert not page.error
    assert BEFORE in [one.value for one in page.caption]
    assert (page.code[0].value, figure_of(page, "plan_map")["figure"], figure_of(page, "budgets")["figure"]) == before
    assert left == [DUEL]  # the costs do not wait in line behind the duel of the plan before
    monkeypatch.undo()
    page.run()
    settle(page)
    assert BEFORE not in [one.value for one in page.caption]
    assert page.code[0].value != before[0]


def test_a_moves_duel_begins_once_the_slider_rests(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A duel that began at once would slow down the very repaint that asked for it."""
    settle(page)
    monkeypatch.setattr(plan_section, "REST_S", 3600.0)
    asked, texts = [], [page.code[0].value]
    for budget in (4.3, 4.6):
        page.slider(key="budget").set_value(budget).run()
        asked.append(next(job for job in kept.jobs().unfinished() if "another text" in job.title))
        texts.append(page.code[0].value)
    assert [job.state for job in asked] == ["cancelled", "waiting"]  # the first was given up before it began
    assert len(set(texts)) == 3  # the plan itself was drawn at once
    assert "next in line on cpu; the next move ends it" in job_view.words(asked[1])
    asked[1].end()


def test_a_plan_is_mended_in_place(page: AppTest) -> None:
    settle(page)
    before = page.code[0].value
    next(button for button in page.button if button.label.startswith("Mend the plan in place")).click().run()
    settle(page)
    assert not page.error
    said = next(one.value for one in page.markdown if "tries in the plan itself" in one.value)
    assert ("no other scheme" in said) == (page.code[0].value == before)


def test_a_budget_of_bytes_is_one_of_bits(page: AppTest) -> None:
    """4 bits of 64 x (64 + 2 x 32 + 64 + 3 x 128) weights, twice: 0.03686 MB."""
    page.query_params["cost"] = "megabytes"
    page.query_params["megabytes"] = "0.0368"
    settle(page)
    assert not page.error
    said = next(one.value for one in page.markdown if "The plan takes" in one.value)
    took = float(said.split("The plan takes **")[1].split("**")[0])
    assert took <= 0.0368
    assert took == pytest.approx(float(said.split("weights (")[1].split(" ")[0]) * 73_728 / 8e6, rel=1e-3)
    assert "w:int3/group32 for all takes 0.03226 MB of weights (3.500 bits each)" in said


def test_a_budget_of_milliseconds_is_the_labs_plan(page: AppTest) -> None:
    page.query_params["cost"] = "milliseconds"
    page.query_params["plan_gpu"], page.query_params["plan_at_once"] = "T4", "8"
    settle(page)
    assert not page.error
    lab, text = lab_of(page), page.code[0].value
    schemes = tuple(str(lab.plan_of(one)) for one in timed_schemes("group32", ["group32", "channel"]))
    budget = page.slider(key="milliseconds").value
    timed = lab.plan_in_time(schemes, budget, "T4", 8)
    assert text == str(timed.chosen.plan)
    assert timed.ms <= budget
    said = next(one.value for one in page.markdown if "ms a step of 8 sequences" in one.value)
    assert "takes a predicted **" in said
    trail = figure_of(page, "budgets")["figure"]["data"][0]
    assert values(trail["x"]) == pytest.approx([ms for ms, _ in lab.trail_in_time(schemes, "T4", 8)])


def test_another_gpu_lets_go_of_a_time_that_is_beyond_its_own(page: AppTest) -> None:
    page.query_params["cost"] = "milliseconds"
    settle(page)
    longest = page.slider(key="milliseconds").max
    page.slider(key="milliseconds").set_value(longest).run()
    assert page.slider(key="milliseconds").value == longest
    page.selectbox(key="plan_gpu").set_value("T4").run()
    assert not page.exception
    assert page.slider(key="milliseconds").value <= page.slider(key="milliseconds").max < longest


def test_everything_but_it(page: AppTest) -> None:
    page.query_params["way"] = "everything but it"
    settle(page)
    assert any("With all layers quantized the KL is" in one.value for one in page.markdown)


def test_estimated_in_place_of_measured(page: AppTest, tiny_lm: LoadedModel) -> None:
    page.query_params["way"] = "alone, estimated"
    settle(page)
    assert not page.error
    tokens = replace(EVALUATE, source="calibration/all").at_most(640).tokens(tiny_lm, Texts())
    (found,) = estimated_costs(tiny_lm.model, ["w:int3/group32"], tokens)
    worst = max(found.alone, key=lambda layer: found.alone[layer])
    assert values(figure_of(page, "ranking")["figure"]["data"][0]["x"])[0] == pytest.approx(found.alone[worst])
    assert any("all **estimated** at once" in one.value for one in page.markdown)
    names = [trace.get("name") for trace in figure_of(page, "budgets")["figure"]["data"]]
    assert "one scheme for all, estimated" in names
    assert Plan.parse(page.code[0].value).overrides


def test_why_another_layer_has_the_bits() -> None:
    """`big` hurts most, 0.4 nats; 4 more bits there save 0.4 for 4 million bits, in `small` 0.1 for 0.4 million."""
    four, eight = "w:int4/channel", "w:int8/channel"
    bits = {(layer, text): 4.0 if text == four else 8.0 for layer in ("big", "small") for text in (four, eight)}
    alone = {("big", four): 0.4, ("big", eight): 0.0, ("small", four): 0.1, ("small", eight): 0.0}
    weights = {"big": 1_000_000, "small": 100_000}
    found = Sensitivity((four, eight), ("big", "small"), weights, bits, alone, {}, {}, 16.0, 100)
    said = words.bits_where({"big": four, "small": eight}, found)
    assert said.startswith("In the plan `big` hurts most, yet `small` got the bits")
    assert (
        "saves 0.1 nats for 0.4 million bits, **0.25** a million; in `big` 0.4 nats for 4 million, 0.1 a million"
        in said
    )
    assert words.bits_where({"big": four, "small": four}, found) == ""


def test_the_budget_begins_at_what_four_bits_cost_on_this_model(page: AppTest) -> None:
    """64 and 128 inputs a row, one float16 scale for each: 4 + 16/32 bits in groups of 32, dearer than in groups of 64.
    A budget below would have the plan beside a scheme for all of fewer bits."""
    del page.query_params["budget"]
    settle(page)
    assert next(one for one in page.slider if one.key == "budget").value == 4.5


def test_a_duel_of_a_plan_has_two_lines_at_least() -> None:
    four, eight = schemes = ("w:int4/channel", "w:int8/channel")
    plan = "W3A16@a=W8A16"
    assert words.duel_lines(four, four, schemes) == f"{four}\n{eight}"
    assert words.duel_lines(plan, four, schemes) == f"{plan}\n{four}"
    assert words.duel_lines(plan, None, schemes) == f"{plan}\n{four}\n{eight}"
