"""The page Scheme duel: runs as a job, tells the truth of its duel, answers again at once, takes plans."""

import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

import quantcore.measure.duel as duel_module
from quantcore import compare, quantize_model
from quantcore.export.plain import plain
from quantcore.lab.report import duel_document
from quantcore.matmul.size import quantized_linears
from quantcore.measure import evaluate
from quantcore.measure.duel import Duel
from quantcore.measure.scores import Scores
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.layers import LayerReport
from quantcore.text.reading import EVALUATE, Texts
from tests.apptest_helpers import click, figure_of, figures_of, lab_of, new_server, settle, values
from tests.apptest_helpers import page as open_page
from ui import job_view, kept
from ui.figures import duel as figures
from ui.words import duel as duel_words
from ui.words import tokens as token_view

LIST = "w:int8/channel\nw:int3/channel\nw:int3/channel@down_proj=w:int8/channel"


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    return open_page("7_Scheme_duel", model=tiny_model_dir, duel=LIST, prompt="The lighthouse")


def test_alive_without_a_click_and_true(page: AppTest, tiny_lm: LoadedModel) -> None:
    settle(page)
    assert not page.error
    assert [shown["key"] for shown in figures_of(page)] == ["pareto", "layer_errors", "along"]
    tokens = EVALUATE.tokens(tiny_lm, Texts())
    report = compare(tiny_lm.model, quantize_model(tiny_lm.model, "w:int3/channel")[0], tokens)
    trace = next(t for t in figure_of(page, "pareto")["figure"]["data"] if t.get("name") == "w:int3/channel")
    assert trace["text"] in (["B"], ["B w:int3/channel"])  # the name where it fits
    assert values(trace["y"])[0] == pytest.approx(report.kl, rel=1e-6)
    assert values(trace["x"])[0] == pytest.approx(report.bytes / 1e6)
    assert page.table[0].value.loc["w:int3/channel", "perplexity (95%)"].startswith(f"{report.perplexity:.2f} (")
    layers = [trace["name"] for trace in figure_of(page, "layer_errors")["figure"]["data"]]
    assert layers == ["w:int8/channel", "w:int3/channel", "w:int3/channel@down_proj=w:int ..."]
    said = "\n".join(element.value for element in page.markdown)
    assert "**w:int8/channel** is closest to the float model" in said


def test_the_second_visit_runs_no_job(page: AppTest, tiny_model_dir: Path) -> None:
    settle(page)
    kept.jobs.clear()
    again = open_page("7_Scheme_duel", model=tiny_model_dir, duel=LIST, prompt="The lighthouse")
    again.run()
    assert not again.exception
    assert "pareto" in [shown["key"] for shown in figures_of(again)]
    assert all("|" not in key or not key.startswith("duel|") for key in kept.jobs()._jobs)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("W8A8", "the list has 1 different schemes that this model can take; a duel takes 2 to 6"),
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
    assert page.text_area(key="duel").value == f"{LIST}\nw:int4/group64/asym"  # W4A16_ASYM on this model


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
    click(page, "along", x=1234)
    settle(page)
    assert shown_token(page) == page.slider(key="token").value == 1234  # bound to the link


def shown_token(page: AppTest) -> int:
    """The token that the picture marks."""
    return int(values(figure_of(page, "along")["figure"]["data"][1]["x"])[0])


def test_what_is_measured_so_far_is_shown(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the layers of what is quantized; then all figures on the windows read so far; at last the whole page."""
    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    monkeypatch.setattr("ui.job.SHOW_EVERY_S", 0.0)
    monkeypatch.setattr("quantcore.measure.evaluate.SO_FAR_S", 0.0)
    steps, whole = threading.Semaphore(0), evaluate.next_log_p

    def held(model, batch):
        if not quantized_linears(model):  # the float model, once a batch
            assert steps.acquire(timeout=60)
        return whole(model, batch)

    monkeypatch.setattr("quantcore.measure.evaluate.next_log_p", held)

    def shown(keys: list[str]) -> None:
        end = time.monotonic() + 60
        while [one["key"] for one in figures_of(page.run())] != keys:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert not page.exception
        assert any(str(button.key).startswith("cancel_") for button in page.button)

    try:
        shown(["layer_errors"])
        steps.release()
        shown(["pareto", "layer_errors"])
        assert list(page.table[0].value.index) == [*LIST.split("\n")[:2], "w:int3/channel@down_proj=w:int ..."]
        assert any(one.value.startswith("**So far**, after 1,024 tokens: **w:int8") for one in page.markdown)
    finally:
        steps.release(100)
    settle(page)
    assert not any("So far" in one.value for one in page.markdown)
    assert len(page.table[0].value) == 3


def test_schemes_that_are_kept_are_shown_while_a_new_one_is_measured(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(page)
    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    gate, whole = threading.Event(), duel_module.compare

    def held(*args, **kwargs):
        assert gate.wait(60)
        return whole(*args, **kwargs)

    monkeypatch.setattr(duel_module, "compare", held)
    try:
        page.text_area(key="duel").set_value(f"{LIST}\nw:int5/channel").run()
        assert len(page.table[0].value) == 3
        assert any(one.value.startswith("**So far**, 3 schemes: ") for one in page.markdown)
    finally:
        gate.set()
    settle(page)
    assert len(page.table[0].value) == 4


def test_a_cancelled_job_does_not_begin_again_by_itself(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    slow = torch.ones(1)
    monkeypatch.setattr("quantcore.measure.duel.compare", lambda *a, progress, **k: _crawl(progress, slow))
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
    found = lab_of(page).kept_duel(LIST.split("\n"))
    assert found is not None
    content = plain(duel_document(found, {}))
    figures, pairs, *layers = content["tables"]
    rows = {row[1]: dict(zip(figures["columns"], row, strict=True)) for row in figures["rows"]}
    assert list(rows) == LIST.split("\n")
    assert rows["w:int3/channel"]["KL"] == pytest.approx(found.reports["w:int3/channel"].kl)
    assert [len(one["rows"]) for one in layers] == [14, 14, 14]
    assert len(pairs["rows"]) == 3
    shown = next(one.value for one in page.dataframe if "KL p50" in one.value)  # the page's numbers are the same table
    assert shown["KL"].tolist() == [row["KL"] for row in rows.values()]
    assert [one.label for one in page.get("download_button")].count("Report as JSON") == 1


def test_every_layer_has_its_place_and_its_spread() -> None:
    """Two modules of two blocks: a gap between the modules, bars from the worst window to the best, none for exact."""

    def row(name: str, sqnr: float, windows: tuple[float, float] | None) -> LayerReport:
        return LayerReport(name, (1, 1), "w", 4.0, 1, 1.0, sqnr, 0.0, output_sqnr_windows=windows)

    rows = (row("h.0.a", 20, (18, 23)), row("h.0.b", 30, None), row("h.1.a", math.inf, (math.inf, math.inf)))
    nothing = Scores(*[torch.empty(0, 0)] * 2, *[torch.empty(0, 0, 1)] * 2)
    found = Duel(nothing, {}, {}, {"w:int4/channel": (*rows, row("h.1.b", 31, (31, 32)))}, {}, {})
    fig = figures.layer_errors(found)
    (trace,) = fig.data
    assert list(trace.x) == [0, 1, None, 3, 4]
    assert list(trace.y) == [20, None, None, 30, 31]
    assert list(trace.error_y.array) == [3, 0, None, 0, 1]
    assert list(trace.error_y.arrayminus) == [2, 0, None, 0, 0]
    assert (list(fig.layout.xaxis.tickvals), list(fig.layout.xaxis.ticktext)) == ([0.5, 3.5], ["a", "b"])


def test_a_long_text_keeps_its_peaks() -> None:
    kl = np.linspace(0, 1, 3 * figures.MOST_PEAKS)
    kl[4567] = 9.0
    texts = [str(place) for place in range(len(kl))]
    line, mark = figures.along_the_text(kl, texts, "#000000", 7, (0, 255)).data
    assert len(line.x) == figures.MOST_PEAKS
    assert (line.x[line.y.argmax()], line.text[line.y.argmax()]) == (4567, "4567")
    assert mark.x[0] == 7


def test_what_stays_float_is_named() -> None:
    left = LayerReport("m.experts.up", (4, 8, 8), "float", 16.0, 1, None, None, 0.0, notes=("not quantized: why",))
    nothing = Scores(*[torch.empty(0, 0)] * 2, *[torch.empty(0, 0, 1)] * 2)
    assert duel_words.left_float(Duel(nothing, {}, {}, {"w": (left,)}, {}, {})) == "`m.experts.up` not quantized: why"
    assert duel_words.left_float(Duel(nothing, {}, {}, {"w": ()}, {}, {})) == ""
    tower = [replace(left, name=f"tower.{place}", notes=("not quantized: no text",)) for place in range(32)]
    said = duel_words.left_float(Duel(nothing, {}, {}, {"w": (left, *tower)}, {}, {}))
    assert said == "`m.experts.up` not quantized: why; `tower.0` and 31 more not quantized: no text"


def test_the_default_list_fits_the_model(page: AppTest) -> None:
    """Groups of 128 do not divide this model's 64 inputs: presets have groups of 64, and the page says so."""
    del page.query_params["duel"]
    settle(page)
    assert not page.error
    assert page.text_area(key="duel").value == "W8A8\nW4A16\nw:int4/channel\nW3A16"
    texts = next(one.value for one in page.dataframe if "KL p50" in one.value)["text"]
    assert {"w:int4/group64", "w:int3/group64"} <= set(texts)
    assert any("64 / 128 is no whole number" in one.value for one in page.caption)


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
