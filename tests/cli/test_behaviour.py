"""The verbs `answers` and `lens` say what the lab says."""

import json
from pathlib import Path

import pytest

from quantcore.cli.command import main
from quantcore.lab.lab import Lab
from quantcore.studies import retrieval

TEXT = ("--max-tokens", "320", "--window", "64")


def test_answers(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["answers", "--model", str(tiny_model_dir), "--schemes", "w:int8/channel", "w:int2/channel", "--tokens", "6"]
    assert main([*line, "--max-tokens", "160", "--window", "16"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = Lab(str(tiny_model_dir)).answers(("w:int8/channel", "w:int2/channel"), 6, said["text"]["reading"])
    coarse = said["schemes"]["w:int2/channel"]
    assert coarse["alike_after"] == found.alike("w:int2/channel")
    assert coarse["part"]["share"] == found.share("w:int2/channel")[0]
    assert len(coarse["parted"]) == said["text"]["windows"] == 10
    assert main([*line[:-1], "300"]) == 2
    assert "are more than the 256 tokens that this model reads" in capsys.readouterr().err


def test_lens(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = "kv:int4/group16/dynamic"
    assert main(["lens", "--model", str(tiny_model_dir), "--caches", cache, *TEXT]) == 0
    said = json.loads(capsys.readouterr().out)
    found = Lab(str(tiny_model_dir)).context_lens((cache,), said["text"]["reading"])
    assert said["caches"][cache]["kl"] == pytest.approx(float(found.kl[cache].double().mean()))
    assert said["positions"] == found.edges
    assert said["bytes"] == found.held
    assert main(["lens", "--model", str(tiny_model_dir), "--caches", "W8A8", *TEXT]) == 2
    assert "must speak of the cache alone" in capsys.readouterr().err


def test_lens_asks_for_facts(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "QUESTION", "\n{}:")  # its tokenizer takes a token for almost each letter
    cache = "kv:int4/group16/dynamic"
    line = ["lens", "--model", str(tiny_model_dir), "--caches", cache, "--facts"]
    assert main([*line, "--max-tokens", "1250", "--window", "250"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = Lab(str(tiny_model_dir)).retrieval((cache,), said["text"]["reading"])
    assert said["facts"]["asked"] == found.asked == 20
    assert said["facts"]["caches"][cache]["log_p_by_place"] == found.said[cache].double().mean(0).tolist()
    assert said["facts"]["float_finds"] is found.finds
    assert main([*line, *TEXT]) == 2
    assert "more than half of a window of 64" in capsys.readouterr().err
