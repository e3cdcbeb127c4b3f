"""Greedy answers on the duel's page: asked for by a button, drawn as they are, and voted on blind."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.lab.answers import ANSWER
from quantcore.studies.answers import Answers
from tests.apptest_helpers import figure_of, lab_of, new_server, settle, values
from tests.apptest_helpers import page as open_page
from ui.sections.answers import BUTTON
from ui.words import answers as words

COARSE, FINE = "w:int3/channel", "w:int8/channel"


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    return open_page("7_Scheme_duel", model=tiny_model_dir, duel=f"{FINE}\n{COARSE}", prompt="The lighthouse")


def test_answers_are_counted_and_voted_on(page: AppTest) -> None:
    settle(page)
    next(one for one in page.button if one.label == BUTTON).click()
    settle(page)
    found = lab_of(page).answers((FINE, COARSE))
    data = figure_of(page, "answers")["figure"]["data"]
    assert values(data[1]["y"]).tolist() == pytest.approx([100 * share for share in found.alike(COARSE)])
    assert len(data[0]["x"]) == ANSWER + 1
    said = "\n".join(one.value for one in page.markdown)
    assert words.headline(found) in said
    assert page.selectbox(key="vote").value == COARSE
    for key in ("vote_A", "vote_none", "vote_B"):
        page.button(key=key).click().run()
        assert not page.exception
    told = next(one.value for one in page.markdown if one.value.startswith("3 votes"))
    assert "no difference 1." in told
    assert "was float" in told
    page.button(key="votes_again").click().run()
    assert not any("votes:" in one.value for one in page.markdown)


def test_what_is_said_by_hand() -> None:
    found = Answers(((0,),) * 4, ((1, 2),) * 4, {}, {"W8A8": (None,) * 4, "W4A16": (None, 0, 1, 1)}, 2)
    assert words.headline(found).startswith("Within 2 tokens of greedy writing, **0%** of W8A8's answers (95%")
    assert words.headline(found).endswith("**75%** of W4A16's answers (95%: 30% to 95%) part from the float model's.")
    assert [row["half of those by token"] for row in words.rows(found)] == ["", "2"]
    votes = [words.FLOAT] * 9 + [words.SCHEME] + [words.NEITHER] * 2
    assert words.tally(votes, "W4A16") == (
        "12 votes: float 9, W4A16 1, no difference 2. Beyond chance (p 0.021)."  # 2 (1 + 10) / 1024
    )
    assert words.tally(votes[8:10], "W4A16").endswith("Within chance (p 1).")
    assert words.tally([], "W4A16") == ""
    assert words.tally([words.NEITHER], "W4A16") == "1 votes: float 0, W4A16 0, no difference 1."
