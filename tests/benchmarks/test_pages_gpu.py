"""The benchmark of the pages drives every page: a control that was renamed, or a page that fails, is a problem here."""

import json
from pathlib import Path

import pytest

from benchmarks.pages_gpu import PAGES, p95, together, verdicts
from tests import forked
from tests.forked import ROOT


def test_every_page_is_in_it() -> None:
    """All but the course, whose scenes have a benchmark of their own, and the teacher's page, which looks at the server
    and at no model."""
    assert set(PAGES) - {""} == {file.stem for file in (ROOT / "pages").glob("*.py")} - {"0_Course", "12_The_line"}


def test_it_drives_the_pages_with_a_tiny_model(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    pages = ["", "2_Granularity", "5_Layer_lab", "6_GPTQ_step_by_step"]
    command = ["-m", "benchmarks.pages_gpu", "--tiny", "--device", "cpu", "--out", str(out), "--pages", *pages]
    done = forked.run(*command, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert list(found["pages"]) == pages
    for name in pages:
        page = found["pages"][name]
        assert page["problems"] == []
        assert len(page["moves"]) == sum(len(values) for values in PAGES[name].moves.values())
        assert all(0 < move["run_s"] <= move["answer_s"] for move in page["moves"])
    assert "of moves: " in done.stdout


def test_figures_and_verdicts() -> None:
    move = {"run_s": 0.1, "answer_s": 0.2}
    slow = {"run_s": 0.1, "answer_s": 0.9}
    pages = {
        "a": {"first": {"run_s": 2.1, "answer_s": 3.0}, "moves": [move] * 19 + [slow]},
        "b": {"problems": ["not opened"]},
    }
    figures = together({"pages": pages})
    assert figures["slowest first answer_s"] == 3.0
    assert (figures["move answer_s median"], figures["move run_s p95"]) == (0.2, 0.1)
    assert [line.split(":")[0] for line in verdicts({"pages": pages})] == [
        "MISSED  first draw",
        "reached median of moves",
        "reached p95 of moves",
    ]
    assert p95([float(n) for n in range(100)]) == pytest.approx(94)
