"""The notebook runs from top to bottom, and what it prints is so."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_it_is_a_notebook(cells: list[dict[str, Any]]) -> None:
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )
    assert all(len(line) <= 121 for cell in cells for line in cell["source"])


def test_it_runs(
    cells: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    names: dict[str, Any] = {}
    shorter = {"calibration/all|5x512": "calibration/all|2x256", "evaluation/all|10x128": "evaluation/all|4x64"}
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for text, short in shorter.items():
                source = source.replace(text, short)
            exec(compile(source, f"cell {place}", "exec"), names)
    assert [names["learning"], names["reading"]] == list(shorter.values())
    said = capsys.readouterr().out
    assert float(re.search(r"median [\d.]+: (\d+) times", said)[1]) > 5
    assert names["found"].reports[names["int8"]].kl < names["found"].reports[names["rounded"]].kl
    assert names["gain"].value < 0
    rounding, gptq = re.findall(r"^W4A16.* weight ([\d.]+) dB, output ([\d.]+) dB", said, re.MULTILINE)
    assert (float(gptq[0]) < float(rounding[0]), float(gptq[1]) > float(rounding[1])) == (True, True)
    (folder,) = (tmp_path / "exports").iterdir()
    assert folder.name.startswith("reference-w-int4-group128-gptq-actorder-weight-")
    assert (folder / "config.json").is_file()
    assert 0 < float(re.search(r"read back against ours: ([\d.]+)", said)[1]) < 1
    assert "vllm serve" in said
