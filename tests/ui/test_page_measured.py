"""What has been measured: the table of the store, a queue that fills it, and what can be done with its rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.lab.bench import EACH, LEARNED, MEASURED
from quantcore.lab.history import QUEUED
from quantcore.lab.lab import Lab
from quantcore.measure.measured import with_luck
from quantcore.measure.store import Question, Row
from quantcore.text.reading import EVALUATE
from tests.apptest_helpers import errors, figure_of, lab_of, page, said, settle
from ui import kept
from ui.words.measured import rows_key
from ui.words.names import pair

PAGE = "15_What_has_been_measured"


pytestmark = pytest.mark.usefixtures("fresh")


def opened(**state: Any) -> AppTest:
    """The page, once no job is under way."""
    return settle(page(PAGE, **state))


def table_key(at: AppTest) -> str:
    """What the page calls its table now, of the one text that was read."""
    return rows_key(with_luck(lab_of(at).measured())[0])


def chosen(at: AppTest) -> list[str]:
    places = at.session_state[table_key(at)]["selection"]["rows"]
    return [at.dataframe[0].value["scheme"].iloc[place] for place in places]


def test_with_nothing_measured_the_page_says_where_to_begin(tiny_model_dir: Path) -> None:
    at = opened(model=tiny_model_dir)
    assert errors(at) == []
    assert any("Nothing has been measured of this model yet" in one for one in at.info.values)


def test_a_queue_fills_the_table_and_asking_again_finds_it(tiny_model_dir: Path) -> None:
    at = opened(model=tiny_model_dir, more="w:int{4|8}/channel")
    assert any("Nothing has been measured" in one for one in at.info.values)  # nothing begins without a press
    next(one for one in at.button if one.label == "Measure").click()
    settle(at)
    assert errors(at) == []
    assert any("All 2 are measured" in one for one in at.caption.values)
    assert "**2 schemes** on these windows" in said(at)
    table = at.dataframe[0].value
    assert set(table["scheme"]) == {"w:int4/channel", "w:int8/channel"}
    assert float(table["KL"].min()) > 0
    drawn = figure_of(at, "measured")
    assert sorted(drawn["figure"]["data"][1]["text"]) == ["w:int4/channel", "w:int8/channel"]
    at.session_state[table_key(at)] = {"selection": {"rows": [0, 1]}}
    at.run()
    assert "rounding luck not measured" in said(at)
    next(one for one in at.button if one.label.startswith("Measure rounding luck")).click()
    settle(at)
    at.run()  # with what the job has put into the store
    assert errors(at) == []
    assert "luck alone ±" in said(at)
    assert not [one for one in at.button if one.label.startswith("Measure rounding luck")]
    again = page(PAGE, model=tiny_model_dir, more="w:int{4|8}/channel").run()
    assert kept.jobs().unfinished() == []
    assert any("All 2 are measured" in one for one in again.caption.values)


def test_what_is_chosen_stays_chosen_where_rows_come_and_go(tiny_model_dir: Path) -> None:
    """A browser knows rows by their places: thrown away, those that move up must not be chosen in their stead."""
    lab = Lab(str(tiny_model_dir), "cpu")
    lab.queue(["w:int4/channel", "w:int8/channel", "W8A8"])
    at = opened(model=tiny_model_dir)
    first, second, _ = at.dataframe[0].value["scheme"]
    at.session_state[table_key(at)] = {"selection": {"rows": [1]}}
    at.run()
    assert [one.label for one in at.button if one.label.startswith("Throw")] == ["Throw 1 away"]
    lab.queue(["w:int3/channel"])
    at.run()
    assert chosen(at) == [second]  # one row further down
    next(one for one in at.button if one.label == "Throw 1 away").click().run()
    assert set(at.dataframe[0].value["scheme"]) == {first, "w:int3/channel", *(_,)}
    assert chosen(at) == []
    assert not [one for one in at.button if one.label.startswith("Throw")]


def test_what_a_filter_hides_is_chosen_when_it_comes_back(tiny_model_dir: Path) -> None:
    lab = Lab(str(tiny_model_dir), "cpu")
    lab.queue(["w:int4/channel", "w:int8/channel"])
    at = opened(model=tiny_model_dir)
    four = list(at.dataframe[0].value["scheme"]).index("w:int4/channel")
    at.session_state[table_key(at)] = {"selection": {"rows": [four]}}
    at.run()
    at.text_input(key="only").set_value("int8").run()
    assert not [one for one in at.button if one.label.startswith("Throw")]
    at.text_input(key="only").set_value("").run()
    assert chosen(at) == ["w:int4/channel"]


def test_two_plans_that_would_be_cut_alike_are_named_by_where_they_part() -> None:
    kinds = ("gate_proj", "down_proj")
    one, other = (f"W3A16@q_proj,k_proj,v_proj,o_proj,{kind}=w:int4/group128" for kind in kinds)
    assert pair(one, other) == ("W3A16@q_pro ... gate_proj=w:in ...", "W3A16@q_pro ... down_proj=w:in ...")
    assert pair("W4A16", "w:int4/tensor") == ("W4A16", "w:int4/tensor")
    long, longer = (f"W4A16@{','.join(f'layers.{n}.mlp.down_proj' for n in range(top))}=W8A16" for top in (5, 6))
    assert len(set(pair(long, longer))) == 2


def test_a_queue_goes_on_after_a_restart(tiny_model_dir: Path) -> None:
    """What a server that ended in the middle leaves in the store, a new one takes up without a press."""
    lab, schemes = Lab(str(tiny_model_dir), "cpu"), ("w:int4/channel", "w:int8/channel")
    asked = (schemes, MEASURED, LEARNED)

    class Ended(BaseException):
        """The process is gone: nothing is tidied."""

    def end(_: str) -> None:
        rows.extend(lab.store().rows(QUEUED))
        raise Ended

    rows: list[Row] = []
    with pytest.raises(Ended):
        lab.queue(*asked, so_far=end)
    assert lab.unfinished() == []  # ended in order
    question = Question(QUEUED, "\n".join(schemes), lab.id, lab.hash, f"{MEASURED} {LEARNED}", "cpu", {})
    assert [row.key for row in rows] == [question.key]
    lab.store().put(question, json.loads(rows[0].figures), {})
    assert lab.unfinished() == [asked]
    assert len(lab.measured()) == 1
    at = opened(model=tiny_model_dir)
    assert errors(at) == []
    at.run()
    assert "**2 schemes** on these windows" in said(at)
    assert lab.unfinished() == []


def test_rows_are_filtered_and_a_link_holds_it(tiny_model_dir: Path) -> None:
    Lab(str(tiny_model_dir), "cpu").queue(["w:int4/channel", "w:int8/channel", "W8A8"])
    at = opened(model=tiny_model_dir, only="INT8 channel")
    assert set(at.dataframe[0].value["scheme"]) == {"w:int8/channel", "W8A8"}
    assert "**2 schemes** with INT8 channel on these windows" in said(at)
    at = opened(model=tiny_model_dir, only="w8a8")
    assert list(at.dataframe[0].value["scheme"]) == ["W8A8"]
    assert "**1 scheme** with w8a8 on these windows: `W8A8`, " in said(at)
    at = opened(model=tiny_model_dir, only="nvfp4")
    assert any("None of 3 schemes on this text has 'nvfp4'" in one for one in at.info.values)


def test_it_opens_on_the_text_of_the_queue_else_on_the_one_with_most_rows(tiny_model_dir: Path) -> None:
    lab = Lab(str(tiny_model_dir), "cpu")
    lab.duel(["w:int4/channel", "w:int8/channel"], MEASURED, LEARNED)
    lab.duel(["w:int4/channel"], EACH, LEARNED)  # newer, and none of the page's texts
    at = opened(model=tiny_model_dir)
    assert at.selectbox(key="read").value.endswith("2 schemes")
    lab.queue(["w:int4/channel"], str(EVALUATE.at_most(5120)), LEARNED)
    at = opened(model=tiny_model_dir, more="w:int4/channel", tokens=5120)
    assert at.selectbox(key="read").value == "our evaluation text: 5,120 tokens, 1 scheme"


def test_a_line_that_cannot_be_is_refused_and_the_others_stay(tiny_model_dir: Path) -> None:
    at = opened(model=tiny_model_dir, more="{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}")
    assert any("100 schemes and 64" in one for one in errors(at))
    at = opened(model=tiny_model_dir, more="w:int4/group{48|64}")
    assert any("group48" in one for one in errors(at))
    assert any(one.label == "Measure" for one in at.button)
