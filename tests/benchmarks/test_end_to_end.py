"""The end-to-end benchmark runs whole, on a model of two small blocks: what it writes can be read as a record."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import end_to_end
from benchmarks.floor import floor
from benchmarks.llama_files import LLAMA_3_8B, quantized_numbers
from tests import forked


def test_all_contestants_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(end_to_end, "subprocess", SimpleNamespace(run=forked.instead))
    runs = ["ours: W4A16,gptq", "ours streamed: W4A16", "llm-compressor: W4A16,gptq", "duel"]
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["", "--tiny", "--device", "cpu", "--out", str(out), "--runs", *runs])
    end_to_end.main()
    found = json.loads(out.read_text())
    rows = {row["run"]: row for row in found["runs"]}
    assert list(rows) == runs
    for run in runs:
        if "not run" in rows[run]:
            assert run.startswith("llm-compressor")
            assert "pip install llmcompressor" in rows[run]["not run"]
            continue
        second = rows[run]["second"]
        assert 0 < second["seconds"] < rows[run]["process_s"]
        assert second["host_peak_gb"] > 0.1
    whole, streamed = rows["ours: W4A16,gptq"]["second"], rows["ours streamed: W4A16"]["second"]
    assert whole["written_gb"] == pytest.approx(streamed["written_gb"], rel=0.01)  # their reports differ
    assert whole["written_gb"] > 1e-4
    assert 0 < whole["quantize_s"] + whole["write_s"] + whole["read_s"] <= whole["seconds"]
    assert len(rows["duel"]["second"]["kl"]) == 6
    assert found["floor"]["floor_s"] > 0
    assert "floors" in capsys.readouterr().out


def test_the_floor_counts_what_a_llama_costs() -> None:
    """One block of Llama-3-8B, 262,144 tokens at 700 TFLOP/s, causal attention at half of 4 T L H operations:
    2 (2 218103808 + 2 2048 4096) 262144 = 2.375e14 of the passes, 2 (3 4096^2 + 14336^2) 262144 = 1.341e14 of Hessians.
    Read: 2 (218103808 + 2 4096 128256) bytes; written: half a byte, a scale a group of 128, and the embeddings."""
    one = LLAMA_3_8B._replace(blocks=1)
    assert quantized_numbers(one) == 218103808
    found = floor(one, 128, 2048, {"product_tflops": 700.0, "read_gb_s": 2.0, "write_gb_s": 1.0}, 0.03)
    expected = {"forwards_s": 0.33928, "hessians_s": 0.19163, "solve_s": 0.03, "floor_s": 0.56091}
    expected |= {"read_s": 1.26878, "write_s": 2.21383}
    assert found == pytest.approx(expected, rel=1e-4)
