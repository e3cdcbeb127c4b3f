"""The page Context lens: a job along the context, drawn as it is; bytes against a GPU; lines that are no cache."""

from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from quantcore.studies.context_lens import FLOAT, RECALLED, ContextLens
from tests.apptest_helpers import figure_of, figures_of, lab_of, new_server, said, settle, values
from tests.apptest_helpers import page as open_page
from ui.words import context as words

ASKED = {"window": 128}


@pytest.fixture
def page(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    return open_page("13_Context_lens", model=tiny_model_dir, **ASKED)


def test_it_opens_on_caches_that_the_model_takes(page: AppTest) -> None:
    settle(page)
    assert not page.error
    assert [shown["key"] for shown in figures_of(page)] == ["along", "flips", "recall", "growth"]
    lines = page.text_area(key="caches").value.splitlines()
    assert lines == ["kv:fp8_e4m3/tensor", "kv:int8/token", "kv:int4/group16"]  # head_dim is 16
    caches = ("kv:fp8_e4m3/tensor/static", "kv:int8/token/dynamic", "kv:int4/group16/dynamic")
    found = lab_of(page).context_lens(caches, "evaluation/all|5x128")
    assert words.headline(found) in said(page)
    drawn = {one["name"]: values(one["y"]) for one in figure_of(page, "along")["figure"]["data"] if "name" in one}
    means = [one.value for one in found.along(found.kl[caches[2]])]
    assert drawn[caches[2]].tolist() == pytest.approx(means)
    bars = figure_of(page, "recall")["figure"]["data"]
    assert [bar["x"] for bar in bars] == [[FLOAT], *([name] for name in caches)]
    rows = page.table[0].value
    assert f"{found.held[caches[2]]:,}" in rows.to_string()


def test_a_line_that_is_no_cache_is_said(page: AppTest) -> None:
    page.query_params["caches"] = "kv:int8/token\nW8A8"
    settle(page)
    assert any("must speak of the cache alone" in one.value for one in page.error)


def test_bytes_follow_the_sequences(page: AppTest) -> None:
    settle(page)
    before = figure_of(page, "growth")["figure"]["data"]
    page.select_slider(key="at_once").set_value(16).run()
    after = figure_of(page, "growth")["figure"]["data"]
    lab = lab_of(page)
    one, two = (lab.footprint("loaded", FLOAT, 131072, count) for count in (8, 16))
    assert values(before[0]["y"])[-1] == pytest.approx(one.total_bytes / 1e9)
    assert values(after[0]["y"])[-1] == pytest.approx(two.total_bytes / 1e9)


def lens(kl: torch.Tensor, gain: float) -> ContextLens:
    once = torch.zeros(len(kl), kl.shape[1] + RECALLED - 1)
    said = {FLOAT: once.clone(), "kv:int8/token": once.clone()}
    said[FLOAT][:, -RECALLED + 1 :] = gain + torch.arange(len(kl))[:, None] * 0.01
    said["kv:int8/token"][:, -RECALLED + 1 :] = 0.5 * gain
    return ContextLens({"kv:int8/token": kl}, {"kv:int8/token": kl > 0}, said, {FLOAT: 400, "kv:int8/token": 100})


def test_what_is_said_by_hand() -> None:
    kl = torch.full((6, 64), 0.1)
    found = lens(kl, 2.0)
    assert words.headline(found) == (
        "`kv:int8/token` costs **0.1** nats a token; its loss hardly depends on the position (1.00 times as much in "
        "the second half)."
    )
    kl[:, 32:] = 0.4
    assert "grows along the context: 4.0 times as much in the second half" in words.headline(lens(kl, 2.0))
    assert "shrinks along the context: 4.0 times" in words.headline(lens(kl.flip(1), 2.0))
    assert "`kv:int8/token` keeps **49%**" in words.recalled(found)
    assert "nothing can be lost of it" in words.recalled(lens(kl, -1.0))
    (row,) = words.rows(found)
    assert (row["of float's"], row["next tokens that change"]) == ("25.0%", "100.0%")
