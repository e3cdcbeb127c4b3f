"""The advice after a trial is held to an exhaustive duel: every candidate on the whole text, on real models.

The duels are recorded in benchmarks/results/advice.json, with machine and date (`python -m benchmarks.advice losses`),
since measuring takes minutes; shapes, bytes, speed and choice are worked out here. What a trial would have seen is
replayed: the short text's losses choose the finalists, and they alone are known on the whole text."""

import json
from functools import cache
from typing import Any

import pytest

from benchmarks.rows import RESULTS
from quantcore.advice.candidates import candidates
from quantcore.advice.catalog import shape_of
from quantcore.advice.choice import GOALS, Advice, advise, frontier
from quantcore.advice.load import Load
from quantcore.advice.losses import TOLERANCES, Loss
from quantcore.advice.shape import ServedShape, served_shape
from quantcore.lab.advice import finalists
from quantcore.model.loading import load_model
from quantcore.studies.gpus import GPUS

RECORDED = json.loads((RESULTS / "advice.json").read_text(encoding="utf-8"))
WHOLE = ("reference", "SmolLM2-135M")  # models that were measured whole
PLACES = ("T4", "RTX 4090", "H100 SXM", "B200")
LOADS = (Load(1, 2048), Load(32, 8192))


@cache
def shape(model: str) -> ServedShape:
    return (
        served_shape(model, load_model(model, "cpu").model)
        if model == "reference"
        else shape_of(f"HuggingFaceTB/{model}")
    )


def losses(model: str, stage: str) -> dict[str, Loss]:
    """By scheme text, as they were recorded."""
    rows: dict[str, dict[str, Any]] = RECORDED[f"losses of {model}"]
    named = {key.split(" ", 1)[1]: row for key, row in rows.items() if key.startswith(stage)}
    beside = ("text", "learned", "machine")
    return {text: Loss(**{name: one for name, one in row.items() if name not in beside}) for text, row in named.items()}


@pytest.mark.parametrize("model", WHOLE)
def test_every_candidate_was_measured(model: str) -> None:
    asked = {one.text for one in candidates(shape(model))} - {"float"}
    assert set(losses(model, "short")) == set(losses(model, "whole")) == asked
    for row in RECORDED[f"losses of {model}"].values():
        assert row["machine"]["date"]
        assert row["text"]


@pytest.mark.parametrize("model", WHOLE)
@pytest.mark.parametrize("place", PLACES)
def test_the_advised_one_is_on_the_true_frontier(model: str, place: str) -> None:
    served, rough, whole = shape(model), losses(model, "short"), losses(model, "whole")
    for load in LOADS:
        for goal in GOALS:
            for tolerance in TOLERANCES:
                asked = (served, GPUS[place], load, 1, goal, tolerance)
                between = advise(*asked, rough)
                able = [one.candidate.text for one in between.verdicts if one.time and one.candidate.text != "float"]
                final = {text: whole[text] for text in finalists(between, able)}
                found = advise(*asked, {**rough, **final})
                true = advise(*asked, whole)
                assert found.chosen is not None
                assert on_frontier(found, true), f"{found.chosen.candidate.name} for {goal}, {tolerance}, {load}"


def on_frontier(found: Advice, true: Advice) -> bool:
    """Whether none that truly is open beats the chosen one in memory, time and true loss at once."""
    assert found.chosen is not None
    name = found.chosen.candidate.name
    mine = next(one for one in true.verdicts if one.candidate.name == name)
    open_ones = [one for one in true.verdicts if not one.closed]
    return mine in open_ones and name in {one.candidate.name for one in frontier(open_ones)}
