"""The benchmark of the context lens runs, and says what it measured."""

import json
from pathlib import Path

import pytest

from benchmarks import context_lens


def test_a_tiny_model_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["context_lens", "--tiny", "--device", "cpu", "--out", str(out)])
    context_lens.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    first, second = found["rounds"]
    assert first["kl"] == second["kl"]
    assert set(second["kl"]) == set(context_lens.CACHES)
    assert second["held"]["kv:int8/token"] < second["held"]["float"]
    assert second["seconds"] > 0
