"""A duel measures what compare measures, asks the store first, and keeps what it measured."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quantcore import compare, quantize_model
from quantcore.measure import duel as study
from quantcore.measure.duel import duel, known
from quantcore.measure.side_by_side import compare_plans
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel
from quantcore.studies.plans import kept_costs, kept_sensitivity

SCHEMES = ["w:int4/channel", "w:int8/channel,a:int8/tensor/static"]


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (6, 30))


def test_a_duel_is_a_comparison_that_is_kept(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []
    first = duel(tiny_lm, SCHEMES, tokens, tokens, store, progress=lambda share, what: calls.append((share, what)))
    candidate, layers = quantize_model(tiny_lm.model, SCHEMES[0], tokens)
    report = compare(tiny_lm.model, candidate, tokens)
    assert first.reports[SCHEMES[0]].kl == report.kl
    assert first.reports[SCHEMES[0]].log_perplexity_change == report.log_perplexity_change
    assert first.layers[SCHEMES[0]] == tuple(
        replace(row, seconds=first.layers[SCHEMES[0]][n].seconds) for n, row in enumerate(layers)
    )
    assert first.scores[SCHEMES[0]].likeliest.shape == (6, 29, 5)
    assert [share for share, _ in calls] == sorted(share for share, _ in calls)
    assert calls[-1][0] == 1.0
    assert known(tiny_lm, [*SCHEMES, "w:int2/channel"], tokens, tokens, store) == SCHEMES


def test_the_layers_own_errors_are_of_one_window_of_each_kind(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """However long the calibration text is: 20 windows, four of each of five kinds, so every fourth."""
    learned = torch.randint(3, 200, (20, 40))
    rows = duel(tiny_lm, SCHEMES[:1], tokens, learned, Store(tmp_path)).layers[SCHEMES[0]]
    _, by_hand = quantize_model(tiny_lm.model, SCHEMES[0], learned[[0, 4, 8, 12, 16]])
    assert [row.output_sqnr_db for row in rows] == [row.output_sqnr_db for row in by_hand]


def test_the_second_time_nothing_is_run(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = duel(tiny_lm, SCHEMES, tokens, tokens, Store(tmp_path))
    asked: list[list[str]] = []
    monkeypatch.setattr(study, "compare", lambda model, candidates, *a, **k: asked.append(list(candidates)) or 1 / 0)
    again = duel(tiny_lm, SCHEMES, tokens, tokens, Store(tmp_path))
    assert asked == []
    assert again.reports == first.reports
    assert again.layers == first.layers
    assert torch.equal(again.scores[SCHEMES[1]].kl, first.scores[SCHEMES[1]].kl)
    with pytest.raises(ZeroDivisionError):
        duel(tiny_lm, [*SCHEMES, "w:int2/channel"], tokens, tokens, Store(tmp_path))
    assert asked == [["w:int2/channel"]]  # only what is new
    with pytest.raises(ZeroDivisionError):
        duel(tiny_lm, SCHEMES, tokens + 1, tokens, Store(tmp_path))
    assert asked[1] == SCHEMES  # another text


def test_float_as_a_scheme_is_kept_beside_the_float_model(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Whichever is kept first, and whichever last."""
    store = Store(tmp_path)
    for schemes in (SCHEMES[:1], ["float"], SCHEMES, ["float", *SCHEMES]):
        assert known(tiny_lm, ["float"], tokens, tokens, store) == ["float"] * (
            schemes in (SCHEMES, ["float", *SCHEMES])
        )
        found = duel(tiny_lm, schemes, tokens, tokens, store)
        assert list(found.reports) == schemes
    assert (found.reports["float"].kl, found.reports[SCHEMES[0]].kl > 0) == (0.0, True)


def test_a_large_model_goes_block_by_block(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = duel(tiny_lm, SCHEMES, tokens, tokens, Store(tmp_path / "a"))
    monkeypatch.setattr(study, "SMALL_MODEL", 0)
    monkeypatch.setattr("quantcore.measure.evaluate.BATCH_TOKENS", 1)  # six batches, each needs every candidate
    quantized: list[str] = []

    def counted(model, plans, *args, **kwargs):
        quantized.extend(plans)
        return compare_plans(model, plans, *args, **kwargs)

    monkeypatch.setattr(study, "compare_plans", counted)
    lazy = duel(tiny_lm, SCHEMES, tokens, tokens, Store(tmp_path / "b"))
    assert quantized == SCHEMES  # each once
    for text in SCHEMES:
        assert torch.allclose(lazy.scores[text].kl, ready.scores[text].kl, rtol=1e-3, atol=1e-6)
        assert lazy.reports[text].bytes == ready.reports[text].bytes
        assert len(lazy.layers[text]) == len(ready.layers[text])


def test_a_model_in_its_files_has_its_duel_kept_too(
    tiny_lm: LoadedModel, tiny_model_dir: Path, tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and in its files it is the same model: what one has measured the other finds."""
    whole = duel(tiny_lm, SCHEMES, tokens, tokens, Store(tmp_path / "whole"))
    streamed, store = StreamedModel(str(tiny_model_dir), "cpu"), Store(tmp_path / "streamed")
    found = duel(streamed, SCHEMES, tokens, tokens, store)
    assert known(tiny_lm, SCHEMES, tokens, tokens, store) == SCHEMES
    for text in SCHEMES:
        assert replace(found.reports[text], seconds=0) == replace(whole.reports[text], seconds=0)
        assert [replace(one, seconds=0) for one in found.layers[text]] == [
            replace(one, seconds=0) for one in whole.layers[text]
        ]
        assert torch.equal(found.scores[text].likeliest, whole.scores[text].likeliest)
    monkeypatch.setattr(study, "_measure", lambda *_: 1 / 0)
    assert duel(streamed, SCHEMES, tokens, tokens, store).reports == found.reports


def test_what_is_known_so_far(tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the schemes as they are quantized, with their layers; then figures on the windows that all have read."""
    monkeypatch.setattr("quantcore.measure.evaluate.SO_FAR_S", 0.0)
    tokens, looks = torch.randint(3, 200, (24, 100)), []
    found = duel(tiny_lm, SCHEMES, tokens, tokens, Store(tmp_path), so_far=looks.append)
    assert [(list(one.layers), one.reports) for one in looks[:2]] == [(SCHEMES[:1], {}), (SCHEMES, {})]
    assert looks[1].layers == found.layers
    assert [one.reports[SCHEMES[0]].tokens for one in looks[2:]] == [1000, 2000]
    assert torch.equal(looks[2].scores[SCHEMES[1]].kl, found.scores[SCHEMES[1]].kl[:10])


def change_rows(store: Store, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter the figures of every kept answer."""
    with closing(sqlite3.connect(store.path)) as connection, connection:
        for key, text in connection.execute("SELECT key, figures FROM results").fetchall():
            figures = json.loads(text)
            if figures:  # the float model's have none
                change(figures)
            connection.execute("UPDATE results SET figures = ? WHERE key = ?", (json.dumps(figures), key))


OTHER_SHAPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a figure less": lambda f: f["report"].pop("kl_p95"),
    "a figure more": lambda f: f["report"].update(kl_p75=0.5),
    "an interval that is a number": lambda f: f["report"].update(log_perplexity=1.5),
    "layers with another field": lambda f: f["layers"][0].update(sqnr=3.0),
    "no layers": lambda f: f.pop("layers"),
    "seconds in words": lambda f: f.update(quantize_s="a while"),
    "a report that is a list": lambda f: f.update(report=[1, 2]),
}


@pytest.mark.parametrize("tried", OTHER_SHAPES)
def test_an_answer_of_another_shape_is_measured_anew(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path, tried: str
) -> None:
    store = Store(tmp_path)
    first = duel(tiny_lm, SCHEMES[:1], tokens, tokens, store)
    change_rows(store, OTHER_SHAPES[tried])
    assert duel(tiny_lm, SCHEMES[:1], tokens, tokens, store).reports[SCHEMES[0]].kl == first.reports[SCHEMES[0]].kl
    assert store.count() == 2
    assert duel(tiny_lm, SCHEMES[:1], tokens, tokens, store).reports[SCHEMES[0]].kl == first.reports[SCHEMES[0]].kl


def test_costs_of_another_shape_are_measured_anew(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store, asked = Store(tmp_path), (tiny_lm, SCHEMES[:1], tokens, tokens)
    first = kept_sensitivity(*asked, store)
    for change in (lambda f: f.pop("alone"), lambda f: f.update(alone=[1.0]), lambda f: f.update(extra=1)):
        change_rows(store, change)
        assert kept_sensitivity(*asked, store).alone == first.alone
        assert kept_costs(tiny_lm, SCHEMES[0], tokens, tokens, store) is not None


def test_a_store_that_cannot_keep_is_no_error(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = duel(tiny_lm, SCHEMES[:1], tokens, tokens, Store(tmp_path / "file"))
    assert found.reports[SCHEMES[0]].kl > 0


def test_a_scheme_that_cannot_be_is_named(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^w:int4/group128: group128 does not divide model.layers.0.self_attn.q_proj"):
        duel(tiny_lm, ["w:int4/group128"], tokens, tokens, Store(tmp_path))


@pytest.mark.parametrize("small", [True, False])
def test_one_bad_line_does_not_end_the_others(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    """One that cannot be read, one that does not fit, one whose Hessian has no factor, which shows on the way."""
    if not small:
        monkeypatch.setattr(study, "SMALL_MODEL", 0)
    lines = ["int4", "w:int4/group48", "w:int4/channel,gptq/damp=1e-20", "W4A16"]
    few = torch.randint(3, 200, (1, 8))  # fewer tokens than inputs: X^T X is singular
    found = duel(tiny_lm, lines, tokens, few, Store(tmp_path))
    assert list(found.reports) == ["w:int4/group64"]  # the preset's group is the model's
    assert "cannot read 'int4'" in found.refused["int4"]
    assert "try group64, which divides every layer, or channel" in found.refused["w:int4/group48"]
    assert "factor" in found.refused["w:int4/channel,gptq/damp=1e-20"]
    assert known(tiny_lm, lines, tokens, few, Store(tmp_path)) == ["w:int4/group64"]


def test_answers_are_kept_under_the_scheme_in_full(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first = duel(tiny_lm, ["w:int8/group64"], tokens, tokens, store)
    monkeypatch.setattr(study, "_measure", lambda *_: 1 / 0)
    assert duel(tiny_lm, ["W8A16", "w:int8/group64"], tokens, tokens, store).reports == first.reports
