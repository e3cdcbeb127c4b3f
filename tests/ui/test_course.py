"""The course, walked through: every scene with the right guess, a wrong one and none, on two models of two kinds."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from transformers import GPT2Config, GPT2LMHeadModel

from quantcore.lab.lab import Lab
from quantcore.numbers.digits import digits
from quantcore.text.reading import EVALUATE
from tests.apptest_helpers import ROOT, errors, new_server, page, said, settle
from tests.tiny import VOCAB, tiny_tokenizer
from ui import kept
from ui.course import answers, game
from ui.course.guess import Number, Order, Rows
from ui.course.scene import Missing, Scene, Specimen, scenes
from ui.course.scenes import s10_frozen, s14_ship
from ui.course.screen import RIGHT_WORDS
from ui.menu import title_of

SCENES = [pytest.param(number, scene, id=scene.key) for number, scene in enumerate(scenes(), 1)]
NEEDS_OUTLIERS = {"one_sided", "wall", "token"}  # which random weights may lack


@pytest.fixture(scope="module", autouse=True)
def one_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one scene has measured is there for the next, as in a lesson; whole models are measured on fewer tokens,
    for two rules of three: the third asks for ranges of 10,240 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(s14_ship, "READING", str(EVALUATE.at_most(640)))
        patch.setattr(s14_ship, "ASKED", {key: s14_ship.ASKED[key] for key in ("int4-groups", "fp8-weights")})
        new_server()
        yield
        new_server()


@pytest.fixture(scope="module")
def gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2: Conv1D in place of Linear, no gate in its MLP, a GELU, and hardly an outlier."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    tiny_tokenizer().save_pretrained(folder)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["reference", "gpt2"])
def model(request: pytest.FixtureRequest) -> str:
    return "reference" if request.param == "reference" else str(request.getfixturevalue("gpt2_dir"))


def course(number: int, model: str, **state: str) -> AppTest:
    at = page("0_Course", model=model, scene=number, **state)
    settle(at)
    assert errors(at) == []
    return at


def specimen_of(scene: Scene, model: str) -> Specimen | Missing:
    return answers.found(lab_of(model), scene)


def lab_of(model: str) -> Lab:
    return kept.shared_lab(model, "cpu")


def wrong(guess: Number | Rows | Order, truth: str) -> str:
    """A guess that is not right."""
    if isinstance(guess, Number):
        far = max((guess.lo, guess.hi), key=lambda end: abs(end - float(truth)))
        return guess.read(f"{far:.10g}") or ""
    if isinstance(guess, Order):
        return guess.of(guess.places(truth)[::-1])
    first, *rest = truth.split(",")
    other = 2 if first == "1" else 1
    return ",".join([str(other), *rest])


@pytest.mark.parametrize(("number", "scene"), SCENES)
def test_a_scene_without_a_guess_with_a_wrong_and_a_right_one(number: int, scene: Scene, model: str) -> None:
    at = course(number, model)
    assert at.title[0].value == scene.ask
    found = specimen_of(scene, model)
    if isinstance(found, Missing):
        assert scene.key in NEEDS_OUTLIERS | {"two_weights", "frozen", "ship"}
        assert model != "reference"
        assert found.said in [one.value for one in at.info]
        assert "Show" not in [one.label for one in at.button]
        return
    assert found.said in said(at)
    at.button(key="course_show").click()
    settle(at)
    assert errors(at) == []
    shown = answers.revealed(lab_of(model), scene)
    for words in (shown.answer, shown.why):
        assert words in said(at)
    assert "You said" not in said(at)
    assert found.guess.read(shown.truth) is not None
    for text, right in ((wrong(found.guess, shown.truth), False), (found.guess.read(shown.truth), True)):
        assert text is not None
        at = course(number, model, guess=text, shown="true")
        assert found.guess.verdict(text, shown.truth) in said(at)
        assert (RIGHT_WORDS in said(at)) is right
        assert found.guess.right(text, shown.truth) is right
        assert not at.warning


def test_the_reference_model_has_a_specimen_of_every_idea() -> None:
    missing = [scene.key for scene in scenes() if isinstance(specimen_of(scene, "reference"), Missing)]
    assert missing == []


def test_every_idea_leads_to_a_page_where_it_can_be_moved() -> None:
    lab, titles = lab_of("reference"), set()
    for scene in scenes():
        shown = answers.revealed(lab, scene)
        assert shown.more is not None, scene.key
        path, state = shown.more
        titles.add(title_of(path))
        assert state.get("layer", lab.default_layer()) in lab.layers()
    assert {"Start here", "Number formats", "Granularity", "Outliers", "Static or dynamic"} < titles
    at = course(7, "reference", shown="true")
    link = next(one.value for one in at.markdown if "Try it yourself" in one.value)
    assert link.startswith("[Try it yourself: Granularity](./Granularity?")
    assert "layer=model.layers.7.mlp.down_proj" in link
    assert "group=32" in link


def test_buttons_walk_the_course_to_its_end_and_back(gpt2_dir: Path) -> None:
    at, seen = course(1, str(gpt2_dir)), []
    for _ in scenes():
        seen.append(at.title[0].value)
        at.button(key="course_next").click()
        at.run()
        assert errors(at) == []
    assert seen == [scene.ask for scene in scenes()]
    assert "who spends the bits best" in at.title[0].value
    assert at.button(key="course_next").disabled
    at.button(key="course_back").click()
    at.run()
    assert at.title[0].value == scenes()[-1].ask


@pytest.mark.parametrize("asked", ["0", "16", "-1", "x", "²", "1" * 400, "<b>"])
def test_a_link_to_no_scene_begins_at_the_first_and_says_so(asked: str) -> None:
    at = page("0_Course", scene=asked)
    settle(at)
    assert errors(at) == []
    assert at.title[0].value == scenes()[0].ask
    assert "1 to 15" in at.warning[0].value


@pytest.mark.parametrize("guess", ["nan", "99", "<img src=x>", "1" * 5000])
def test_a_links_guess_that_is_none_is_told(guess: str) -> None:
    at = page("0_Course", scene=4, guess=guess.replace("99", "999"))
    settle(at)
    assert errors(at) == []
    told = ["The link's guess is none that this scene takes: it takes a number from 4% to 100%."]
    assert [one.value for one in at.warning] == told
    at = page("0_Course", scene=4, guess=guess.replace("99", "999"), shown="true")
    settle(at)
    assert [one.value for one in at.warning] == told  # with the answer, too


def test_the_game_is_as_its_link_says(gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "race", lambda *_: None)  # measures
    kinds = game.kinds_of(lab_of(str(gpt2_dir)))
    at = course(15, str(gpt2_dir))
    assert "guess" not in at.query_params
    plan = [4, *[3] * (len(kinds) - 1)]
    asked = ",".join(map(str, plan))
    at = course(15, str(gpt2_dir), guess=asked)
    assert [at.select_slider(key=f"game_{kind}").value for kind in kinds] == plan
    assert "shown" not in at.query_params
    at.button(key="course_show").click().run()
    assert [at.query_params[name] for name in ("guess", "shown")] == [asked, "true"]
    at.select_slider(key=f"game_{kinds[0]}").set_value(2).run()
    assert at.query_params["guess"] == f"2{asked[1:]}"
    assert "shown" not in at.query_params  # of another plan
    at = course(15, str(gpt2_dir), guess=asked, shown="true")
    assert len(at.session_state[f"_played_{lab_of(str(gpt2_dir)).id}"]) == 1
    at = course(15, str(gpt2_dir), guess="9,9")
    assert f"takes {len(kinds)} numbers out of 2, 3, 4, 8" in at.warning[0].value
    assert {at.select_slider(key=f"game_{kind}").value for kind in kinds} == {3}


def test_ranges_are_those_of_the_values() -> None:
    """Not the ends of a grid whose zero point is rounded; or two scenes say two reaches of one layer."""
    lab = lab_of("reference")
    giant = lab.giant()
    assert giant is not None
    x, scene = lab.inputs(giant.layer), {scene.key: scene for scene in scenes()}
    assert lab.value_range(giant.layer, "inputs") == (float(x.min()), float(x.max()))
    twist = answers.revealed(lab, scene["one_sided"]).twist
    assert f"reaches from {digits(float(x.min()))} to {digits(float(x.max()))}" in twist


def test_a_frozen_range_is_passed_by_values_that_stand_out() -> None:
    """The scene's layer is one whose clipped values can be seen beyond the line."""
    lab = lab_of("reference")
    layer, kind = answers.found(lab, next(scene for scene in scenes() if scene.key == "frozen")).of
    study = lab.ranges(layer, (s10_frozen.OBSERVER,), reading=f"evaluation/{kind}|1x512")
    assert max(study.token_hi.max(), -study.token_lo.min()) > 1.2 * study.static[0].hi


def test_a_scene_is_one_file() -> None:
    files = sorted((ROOT / "ui" / "course" / "scenes").glob("s*.py"))
    assert [file.stem[4:] for file in files] == [scene.key for scene in scenes()]
    assert len(files) == 14
