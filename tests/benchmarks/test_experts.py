"""The benchmark of a mixture runs whole, on eight small experts."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import end_to_end, experts
from benchmarks.experts import TINY, beside, write_random_mixture
from quantcore.model.streamed import StreamedModel
from tests import forked


def test_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "subprocess", SimpleNamespace(run=forked.instead))
    out, run = tmp_path / "out.json", "ours streamed: w:int4/group32,gptq,experts=all"
    monkeypatch.setattr("sys.argv", ["", "--tiny", "--device", "cpu", "--out", str(out), "--runs", run])
    experts.main()
    (row,) = json.loads(out.read_text())["runs"]
    assert row["run"] == run
    assert row["second"]["written_gb"] > 1e-4
    assert row["second"]["solve_s"] > 0


def test_its_files_are_a_mixture_in_the_hubs_form(tmp_path: Path) -> None:
    write_random_mixture(tmp_path / "model", TINY)
    streamed = StreamedModel(str(tmp_path / "model"), "cpu")
    assert streamed.skeleton.get_submodule("model.layers.1.mlp.experts.7.down_proj").weight.shape == (64, 32)


def test_who_stands_beside_whom() -> None:
    """experts=all does what llm-compressor does by default, without it what `routed` does."""
    times = {"ours streamed: S": 2.0, "ours streamed: S,experts=all": 4.0, "llm-compressor: S": 40.0}
    times["llm-compressor routed: S"] = 30.0
    lines = beside({"runs": [{"run": run, "second": {"seconds": seconds}} for run, seconds in times.items()]})
    assert [line.split(", ")[-1] for line in lines] == ["15.0 times llm-compressor", "10.0 times llm-compressor"]
