"""The page Rules, tested: a card a rule; what runs by itself is true, what does not waits for a click."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.measure.rules import best_practice
from quantcore.model.loading import LoadedModel
from quantcore.text.reading import CALIBRATE, EVALUATE, Texts
from tests.apptest_helpers import figures_of, new_server, settle
from tests.apptest_helpers import page as open_page
from ui import kept
from ui.words import rules as words


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    return open_page("9_Rules_tested", model=tiny_model_dir)


def test_cards_and_what_runs_by_itself(page: AppTest, tiny_lm: LoadedModel) -> None:
    settle(page)
    said = [one.value for one in page.markdown]
    assert [f"**{rule.text}**" for rule in best_practice()] == [
        one for one in said if one.startswith("**") and one.endswith(".**")
    ]
    shown = [one["key"] for one in figures_of(page)]
    assert shown == ["rule_int4-groups", "rule_int8-tokens", "rule_static-tensor"]  # the last's is a challenger's
    assert not page.error
    assert "`w:int4/group64` against `w:int4/channel`, `w:int4/tensor`" in [one.value for one in page.caption]
    assert sum(button.label == "Run it" for button in page.button) == 5
    tokens, calibration = (
        EVALUATE.tokens(tiny_lm, Texts()),
        CALIBRATE.tokens(tiny_lm, Texts()),
    )
    rule = next(rule for rule in best_practice() if rule.key == "int8-tokens")
    result = rule.test(tiny_lm, tokens, calibration, kept.store())
    assert words.verdict(rule, result) in said


def test_one_rule_runs_at_once(page: AppTest) -> None:
    page.query_params["rule"] = "static-tensor"
    settle(page)
    assert not page.error
    assert any("not challenged" in one.value for one in page.markdown)
    assert any("tomorrow's tokens have no recorded scale" in one.value for one in page.markdown)


def test_what_is_kept_is_shown_without_a_click(page: AppTest, tiny_model_dir: Path) -> None:
    page.query_params["rule"] = "int8-channels"
    settle(page)
    verdict = next(one.value for one in page.markdown if "leads" in one.value or "significant" in one.value)
    kept.jobs.clear()
    again = open_page("9_Rules_tested", model=tiny_model_dir)
    settle(again)
    assert verdict in [one.value for one in again.markdown]
    assert not any("int8-channels" in key for key in kept.jobs()._jobs)
    assert sum(button.label == "Run it" for button in again.button) == 4
