"""The page Scheme duel: runs as a job, tells the truth of its duel, answers again at once, takes plans."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

import quantcore.duel as duel_module
from quantcore import compare, quantize_model
from quantcore.models import LoadedModel
from tests.apptest_helpers import click, figure_of, figures_of, values
from tests.apptest_helpers import page as open_page
from ui import cached, duel_words, job_view, token_view

LIST = "w:int8/channel\nw:int3/channel\nw:int3/channel@down_proj=w:int8/channel"


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    cached.store.clear()
    cached.jobs.clear()
    return open_page("7_Scheme_duel", model=tiny_model_dir, duel=LIST, prompt="The lighthouse")


def settle(at: AppTest) -> AppTest:
    """Run until no job is under way."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        at.run()
        assert not at.exception
        if not any(str(button.key).startswith("cancel_") for button in at.button):
            return at
        time.sleep(0.05)
    raise AssertionError("the page's job did not end")


def test_alive_without_a_click_and_true(page: AppTest, tiny_lm: LoadedModel) -> None:
    settle(page)
    assert not page.error
    assert [shown["key"] for shown in figures_of(page)] == ["pareto", "layer_errors", "along"]
    tokens = cached.duel_tokens(tiny_lm.id, "cpu", "evaluation/all", 2560)
    report = compare(tiny_lm.model, quantize_model(tiny_lm.model, "w:int3/channel")[0], tokens)
    trace = next(t for t in figure_of(page, "pareto")["figure"]["data"] if t.get("text") == ["w:int3/channel"])
    assert values(trace["y"])[0] == pytest.approx(report.kl, rel=1e-6)
    assert values(trace["x"])[0] == pytest.approx(report.bytes / 1e6)
    assert page.dataframe[0].value.loc["w:int3/channel", "perplexity (95%)"].startswith(f"{report.perplexity:.2f} (")
    layers = [trace["name"] for trace in figure_of(page, "layer_errors")["figure"]["data"]]
    assert layers == ["w:int8/channel", "w:int3/channel", "w:int3/channel@down_proj=w:int ..."]
    said = "\n".join(element.value for element in page.markdown)
    assert "**w:int8/channel** is closest to the float model" in said


def test_the_second_visit_runs_no_job(page: AppTest, tiny_model_dir: Path) -> None:
    settle(page)
    cached.jobs.clear()
    again = open_page("7_Scheme_duel", model=tiny_model_dir, duel=LIST, prompt="The lighthouse")
    again.run()
    assert not again.exception
    assert "pareto" in [shown["key"] for shown in figures_of(again)]
    assert all("|" not in key or not key.startswith("duel|") for key in cached.jobs()._jobs)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("W8A8", "the list has 1 different schemes; a duel takes two to 6"),
        ("W8A8\nw:int4/rows", "no granularity is called 'rows'"),
        ("w:int8/channel\nw:int4/channel@layers.77=float", "no layer fits 'layers.77'"),
    ],
)
def test_a_list_with_mistakes_is_told(page: AppTest, text: str, sentence: str) -> None:
    page.query_params["duel"] = text
    settle(page)
    assert sentence in page.error[0].value
    assert page.text_area(key="duel").value == text


def test_the_builder_adds_a_line(page: AppTest) -> None:
    settle(page)
    page.button(key="add").click().run()
    assert page.text_area(key="duel").value == f"{LIST}\nw:int4/group64/asym"


def test_the_worst_token_is_shown_in_its_window(page: AppTest) -> None:
    settle(page)
    kl = values(figure_of(page, "along")["figure"]["data"][0]["y"])
    page.button(key="worst_1").click().run()
    assert shown_token(page) == kl.argmax()
    caption = next(one.value for one in page.caption if one.value.startswith("Window "))
    assert int(caption.split()[1]) == kl.argmax() // 255 + 1
    assert any(f"is outlined: KL **{kl.max():.3g}** nats" in one.value for one in page.markdown)
    (row, *_) = [one.value for one in page.table if "float" in one.value.index]
    assert list(row.index) == ["float", "w:int3/channel"]
    assert all(cell.startswith('"') and cell.endswith("%") for cell in row.to_numpy().flatten())


def test_a_link_opens_a_token_and_a_click_moves_it(page: AppTest) -> None:
    page.query_params["token"] = "700"
    settle(page)
    assert shown_token(page) == 700
    assert next(one.value for one in page.caption if one.value.startswith("Window ")).startswith("Window 3 ")
    click(page, "along", customdata=1234)
    settle(page)
    assert shown_token(page) == page.slider(key="token").value == 1234  # bound to the link


def shown_token(page: AppTest) -> int:
    """The token that the picture marks."""
    return int(values(figure_of(page, "along")["figure"]["data"][1]["x"])[0])


def test_the_first_schemes_are_shown_while_the_others_are_measured(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    gate, whole = threading.Event(), duel_module.compare

    def held(model, candidates, *args, **kwargs):
        if list(candidates) == LIST.split("\n")[2:]:
            assert gate.wait(60)
        return whole(model, candidates, *args, **kwargs)

    monkeypatch.setattr(duel_module, "compare", held)
    try:
        end = time.monotonic() + 60
        while not figures_of(page.run()) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(page.dataframe[0].value.index) == LIST.split("\n")[:2]
        assert [shown["key"] for shown in figures_of(page)] == ["pareto", "layer_errors"]
        assert any(str(button.key).startswith("cancel_") for button in page.button)
    finally:
        gate.set()
    settle(page)
    assert len(page.dataframe[0].value) == 3


def test_a_cancelled_job_does_not_begin_again_by_itself(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    slow = torch.ones(1)
    monkeypatch.setattr("quantcore.duel.compare", lambda *a, progress, **k: _crawl(progress, slow))
    page.run()
    page.run()
    cancel = next(button for button in page.button if str(button.key).startswith("cancel_"))
    cancel.click().run()
    settle(page)
    assert any("cancelled" in info.value for info in page.info)
    page.run()
    assert any(button.label == "Run it again" for button in page.button)


def _crawl(progress, tensor) -> None:
    for step in range(2000):
        progress(step / 2000, "w:int8/channel")
        time.sleep(0.01)


def test_the_download_says_what_the_page_says(page: AppTest) -> None:
    settle(page)
    found = cached.kept_duel(page.text_input(key="model").value, "cpu", "evaluation/all", 2560, tuple(LIST.split("\n")))
    assert found is not None
    content = json.loads(duel_words.as_json(found, "tiny", "evaluation/all"))
    assert list(content["schemes"]) == LIST.split("\n")
    one = content["schemes"]["w:int3/channel"]
    assert one["report"]["kl"] == found.reports["w:int3/channel"].kl
    assert len(one["layers"]) == 14
    assert len(content["kl_differences"]) == 3
    assert len(duel_words.table(found)) == 3


def test_tints_by_hand() -> None:
    assert token_view.tint(token_view.FAINT) == 0
    assert token_view.tint(token_view.FULL) == token_view.tint(100.0) == 0.75
    assert token_view.tint((token_view.FAINT * token_view.FULL) ** 0.5) == pytest.approx(0.375)
    html = token_view.tinted(["<b>", " x"], [None, 9.0], ['"a"', "h"], marked=1)
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "&quot;a&quot;" in html
    assert html.count("outline:2px") == 1
    assert token_view.split_at(["a", "b", "c"], 1).count("outline") == 1
