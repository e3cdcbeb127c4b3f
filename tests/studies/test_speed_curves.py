"""Curves: crossings by hand, the best of several rounds, a clock that was disturbed, recorded files good and bad."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from quantcore.studies.speed import SpeedReport, SpeedRow
from quantcore.studies.speed_curves import best_of, crossings, disturbed, read_run
from tests.browser_fixtures import ROOT


def row(tokens: int, total: float, floats: float, scheme: str = "W8A8") -> SpeedRow:
    return SpeedRow(scheme, "int8", tokens, total / 4, total / 2, total, total, floats, floats, None, None)


def report(*rows: SpeedRow) -> SpeedReport:
    return SpeedReport((64, 32), "bfloat16", "toy", {"torch": "2"}, rows, {"W8A8": 2112}, {})


def test_a_crossing_by_hand() -> None:
    """Gain 1/2 at 1 token, 2 at 16: on log axes half way between, at 4 tokens; bf16 takes 1 and 4 ms there, so 2."""
    (met,) = crossings(report(row(16, 2.0, 4.0), row(1, 2.0, 1.0)), "W8A8")
    assert met.tokens == pytest.approx(4)
    assert met.ms == pytest.approx(2)
    assert met.wins


def test_losing_again_and_never_meeting() -> None:
    rows = row(1, 2.0, 1.0), row(4, 1.0, 2.0), row(16, 8.0, 4.0)
    assert [one.wins for one in crossings(report(*rows), "W8A8")] == [True, False]
    assert crossings(report(row(1, 1.0, 2.0), row(16, 1.0, 3.0)), "W8A8") == []
    assert crossings(report(row(1, 1.0, 2.0)), "W4A16") == []


def test_an_even_time_meets_once() -> None:
    rows = row(1, 2.0, 1.0), row(4, 2.0, 2.0), row(16, 2.0, 4.0)
    (met,) = crossings(report(*rows), "W8A8")
    assert met.tokens == pytest.approx(4)


def test_the_best_of_two_rounds() -> None:
    first, second = report(row(1, 2.0, 1.0), row(4, 2.0, 9.0)), report(row(1, 3.0, 0.5), row(4, 1.0, 8.0))
    best = best_of([first, second])
    assert [(one.total_ms, one.float_ms, one.encode_ms) for one in best.rows] == [(2.0, 0.5, 0.5), (1.0, 8.0, 0.25)]


def test_a_disturbed_clock() -> None:
    calm = report(row(1, 1.0, 1.0), row(4, 0.8, 1.0), row(16, 4.0, 4.0))
    assert disturbed(calm) == []
    restless = report(row(1, 7.0, 1.0), row(4, 1.0, 9.0), row(16, 4.0, 4.0))
    assert [one.tokens for one in disturbed(restless)] == [1, 4]


def test_a_recorded_run_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "matmul.json"
    machine = {"date": "2026-11-25", "cuda": "12.9", "gpu": "NVIDIA H100 80GB HBM3", "versions": {"torch": "2.11"}}
    written = report(row(1, 2.0, 1.0))
    file.write_text(json.dumps({"machine": machine, "note": "Cut short.", "shapes": {"gate": asdict(written)}}))
    run = read_run(file)
    assert run.reports == {"gate": written}
    assert run.device == "NVIDIA H100 80GB HBM3"
    assert run.about == "NVIDIA H100 80GB HBM3, torch 2.11, cuda 12.9, 2026-11-25"
    assert run.note == "Cut short."


def test_the_runs_that_ship_say_machine_versions_and_date() -> None:
    for file in sorted((ROOT / "benchmarks" / "results").glob("matmul*.json")):
        assert re.search(r"^NVIDIA H\d+.*, torch 2\.\d+.*, triton 3\.\d+.*, 20\d\d-\d\d-\d\d$", read_run(file).about)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"machine": {}, "shapes": {}}', '{"machine": {}, "shapes": {"a": 1}}']
)
def test_what_is_no_recorded_run(tmp_path: Path, content: str) -> None:
    file = tmp_path / "matmul_broken.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"matmul_broken\.json is no recorded run .* python -m benchmarks\.matmul"):
        read_run(file)
