"""The verbs that make something: quantize, compare, sensitivity, recipe. Progress on stderr, JSON on stdout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from quantcore.cli import verbs
from quantcore.model.loading import LoadedModel
from quantcore.model.memory import TooLarge
from quantcore.scheme.plan import Plan
from quantcore.text.files import LoadedText
from tests import forked
from tests.cli.test_cli import FEW, LAYER, bad, good
from tests.tiny import BLOCKS

ALL = 7 * BLOCKS


@pytest.fixture(autouse=True)
def _own_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "results"))


def test_quantize(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["quantize", "--model", tiny_model_dir, "--scheme", "w:int4/group32,gptq@down_proj=w:int8/channel"]
    found = good(capsys, *asked, "--out", out, "--max-tokens", "200", "--dtype", "float16")
    assert (found["format"], found["dtype"], found["folder"]) == ("pack-quantized", "float16", str(out))
    assert found["calibration"]["source"] == "bundled calibration"
    assert found["calibration"]["tokens"] <= 200
    assert found["calibration"]["hash"] == found["calibration_hash"]
    assert len(found["layers"]) == ALL
    assert found["serving"]["command"].startswith(f"vllm serve {out}")
    model = eval(found["load"], {"AutoModelForCausalLM": AutoModelForCausalLM})
    assert model.dtype == torch.float16
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "is there already and stays as it is" in bad(capsys, *asked, "--out", out, "--max-tokens", "200")
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    again = good(capsys, *asked, "--out", out, "--max-tokens", "200", "--dtype", "float16", "--force")
    assert again["files"] == found["files"]


def test_quantize_on_your_text_and_a_seed(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("".join(f"Lamp {k} was lit at {k * 7 % 60} past nine. " for k in range(400)), encoding="utf-8")
    asked = ["quantize", "--model", tiny_model_dir, "--scheme", "w:int4/channel,gptq", "--text", text]

    def made(name: str, *more: str) -> dict[str, Any]:
        return good(capsys, *asked, "--max-tokens", "600", "--out", tmp_path / name, *more)

    first, drawn, same, other = made("a"), made("b", "--seed", "1"), made("c", "--seed", "1"), made("d", "--seed", "2")
    assert first["calibration"]["source"] == str(text)
    assert (first["calibration"]["seed"], drawn["calibration"]["seed"]) == (None, 1)
    assert drawn["files"] == same["files"]
    hashes = {one["calibration_hash"] for one in (first, drawn, other)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--scheme", "W4A16"], "the following arguments are required: --out"),
        (["--scheme", "float", "--out", "OUT"], "nothing would be quantized"),
        (["--scheme", "w:int8/channel", "--out", "OUT", "--seed", "1"], "needs no calibration text; leave out --text"),
        (["--scheme", "w:int4/channel,gptq/actorder=group", "--out", "OUT"], "use actorder=weight"),
        (["--scheme", "w:int4/group48", "--out", "OUT"], "group48 does not divide model.layers.0.self_attn.q_proj"),
        (["--scheme", "w:int8/channel", "--out", "OUT/no/such"], "is no folder, so nothing can be written into it"),
        (["--scheme", "w:int8/channel", "--out", "OUT", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["--scheme", "w:int8/channel@nope=float", "--out", "OUT"], "no layer fits 'nope'"),
        (["--scheme", "FP8", "--out", "OUT", "--max-tokens", "2"], "--max-tokens 2 is too few"),
    ],
)
def test_quantize_mistakes(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path, argv: list[str], sentence: str
) -> None:
    argv = [one.replace("OUT", str(tmp_path / "out")) for one in argv]
    assert sentence in bad(capsys, "quantize", "--model", tiny_model_dir, *argv)
    assert not (tmp_path / "out").exists()


def test_compare(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    plans = ["w:int8/channel", "w:int2/channel", "w:int4/channel@down_proj=float"]
    asked = ["compare", "--model", tiny_model_dir, "--schemes", *plans, *FEW, "--seed", "3", "--out", out]
    found = good(capsys, *asked)
    assert found["out"] == str(out)
    table = found["tables"][0]
    rows = {row[1]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert list(rows) == plans
    assert rows[plans[0]]["KL"] < rows[plans[2]]["KL"] < rows[plans[1]]["KL"]
    assert found["facts"]["text"]["seed"] == 3
    assert "--seed 3" in found["facts"]["command"]
    assert f"{rows[plans[1]]['perplexity']:.5g}" in out.read_text(encoding="utf-8")
    assert "is there already" in bad(capsys, *asked)
    assert good(capsys, *asked, "--force")["tables"][0]["rows"] == table["rows"]  # kept, not measured again
    assert found["notice"] is None
    assert "no scheme" not in bad(capsys, "compare", "--model", tiny_model_dir, "--schemes", "w:int4")


def test_a_layers_report(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "layer.html"
    asked = ["layer", "--model", tiny_model_dir, "--layer", LAYER, "--scheme", "w:int4/group32", *FEW, "--out", out]
    found = good(capsys, *asked)
    assert f"{found['output']['sqnr_db']:.5g}" in out.read_text(encoding="utf-8")
    assert "is there already" in bad(capsys, *asked)


def test_sensitivity(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path) -> None:
    asked = ["sensitivity", "--model", tiny_model_dir, "--schemes", "w:int2/channel", "w:int8/channel", *FEW]
    found = good(capsys, *asked, "--budget", "5")
    assert len(found["layers"]) == ALL
    ranked = found["ranked"]["w:int2/channel"]
    costs = [found["layers"][layer]["schemes"]["w:int2/channel"]["kl"] for layer in ranked]
    assert costs == sorted(costs, reverse=True)
    assert found["plan"]["bits_per_weight"] <= 5
    assert {str(one) for one in Plan.parse(found["plan"]["scheme"]).schemes} == {"w:int2/channel", "w:int8/channel"}
    assert found["plan"]["probed"] is None
    assert found["calibration"] is None
    probed = good(capsys, *asked, "--budget", "5", "--probe")["plan"]
    assert probed["predicted_kl"] <= probed["probed"]["kl_by_costs_alone"]
    timed = good(capsys, *asked, "--milliseconds", "1", "--gpu", "L4", "--sequences", "4")["plan"]["milliseconds"]
    assert timed["plan"] <= 1
    assert (timed["gpu"], timed["sequences"]) == ("L4", 4)
    weights = sum(one["weights"] for one in found["layers"].values())
    in_bytes = good(capsys, *asked, "--megabytes", f"{weights * 5 / 8e6:.9f}")["plan"]
    assert in_bytes["scheme"] == found["plan"]["scheme"]
    assert "give one of --budget, --megabytes and" in bad(capsys, *asked, "--milliseconds", "1", "--budget", "5")
    assert "--probe mends a plan" in bad(capsys, *asked, "--probe")
    assert "cannot be met" in bad(capsys, *asked, "--budget", "1")
    assert "quantizes nothing" in bad(capsys, "sensitivity", "--model", tiny_model_dir, "--schemes", "float", *FEW)


def test_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = "w:int4/group128,gptq@down_proj=w:int8/channel"
    found = good(capsys, "recipe", "--scheme", plan, "--model", "owner/name", "--out", tmp_path / "new")
    assert (tmp_path / "new" / "recipe.yaml").read_text(encoding="utf-8") == found["recipe"]
    assert "'owner/name'" in (tmp_path / "new" / "quantize.py").read_text(encoding="utf-8")
    assert yaml.safe_load(found["recipe"])
    assert good(capsys, "recipe", "--read", tmp_path / "new" / "recipe.yaml")["scheme"] == plan
    again = ["recipe", "--scheme", plan, "--out", tmp_path / "new"]
    assert "is there already" in bad(capsys, *again)
    good(capsys, *again, "--force")
    assert "no percentile observer" in bad(capsys, "recipe", "--scheme", "w:int8/channel/p99")
    assert "one of the arguments --scheme --read is required" in bad(capsys, "recipe")
    (tmp_path / "list.yaml").write_text("- a", encoding="utf-8")
    assert "no llm-compressor recipe" in bad(capsys, "recipe", "--read", tmp_path / "list.yaml")


def test_ctrl_c_keeps_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from quantcore.cli.command import main

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quantcore.export.writing.checkpoint_parts", stop)
    out = tmp_path / "out"
    argv = ["quantize", "--model", str(tiny_model_dir), "--scheme", "w:int8/channel", "--out", str(out)]
    assert main(argv) == 130
    assert capsys.readouterr().out == ""
    assert [path for path in tmp_path.iterdir() if path.name != "results"] == []


def test_progress_is_on_stderr_and_json_on_stdout(tiny_model_dir: Path, tmp_path: Path) -> None:
    asked = ("quantize", "--model", str(tiny_model_dir), "--scheme", "FP8", "--out", str(tmp_path / "out"), *FEW)
    done = forked.run("-m", "quantcore", *asked)
    assert done.returncode == 0
    assert json.loads(done.stdout)["format"] == "float-quantized"
    assert "quantizing: 100%" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_bar_counts_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with verbs.progress_bar("working") as tell:
        tell(0.5, "half")
        tell(1.0, "done")
    assert "working: 100%" in capsys.readouterr().err


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock, on the folder, or on what a walk does not measure."""
    report = {key: value for key, value in found["report"].items() if key != "seconds"}
    unlike = ("seconds", "output_sqnr_db", "output_sqnr_windows")
    layers = [{k: v for k, v in row.items() if k not in unlike} for row in found["layers"]]
    return {**found, "report": report, "layers": sorted(layers, key=lambda row: row["name"]), "streamed": None}


def test_a_streamed_model_gives_the_whole_ones_figures_and_files(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    of = ["--model", tiny_model_dir, "--max-tokens", "1000"]
    whole, walked = (
        good(capsys, "evaluate", "--scheme", "w:int3/group32,gptq", *of, *more) for more in ([], ["--stream"])
    )
    assert (whole["streamed"], whole.pop("streamed_why")) == (False, None)
    assert (walked["streamed"], walked.pop("streamed_why")) == (True, "--stream")
    assert without_times(whole) == without_times(walked)
    plans = ["--schemes", "w:int2/channel", "w:int8/channel,a:int8/tensor/static@down_proj=float"]
    tables = [good(capsys, "compare", *plans, *of, *more)["tables"][0]["rows"] for more in ([], ["--stream"])]
    assert [row[1:4] for row in tables[0]] == [row[1:4] for row in tables[1]]
    quantize = ["quantize", "--scheme", "w:int4/group32,gptq", *of]
    files = [
        good(capsys, *quantize, "--out", tmp_path / name, *more)["files"]
        for name, more in (("a", []), ("b", ["--stream"]))
    ]
    assert files[0] == files[1]


def test_a_model_larger_than_the_memory_is_streamed_and_says_so(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantcore.model.memory.free_memory", lambda _: (100_000, 2**30))
    asked = ["--model", tiny_model_dir, "--scheme", "w:int4/group32"]
    found = good(capsys, "quantize", *asked, "--out", tmp_path / "out")
    assert found["streamed"] is True
    assert "M parameters as float32, needs 0.4 MiB of memory and this machine has 0.1 MiB" in found["streamed_why"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32
    assert "needs 0.4 MiB of memory" in bad(capsys, "layer", *asked, "--layer", LAYER)
    gguf = tmp_path / "a.gguf"
    gguf.write_bytes(b"GGUF")
    monkeypatch.setattr("quantcore.lab.bench.load_model", refuse_the_size)
    assert "needs too much" in bad(capsys, "evaluate", "--model", gguf, "--scheme", "w:int4/group32")


def refuse_the_size(*_: Any) -> LoadedModel:
    raise TooLarge("it needs too much")


def test_a_calibration_text_of_your_own(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(f'{{"text": "Lamp {k} was lit at {k * 7 % 60} past nine."}}\n' for k in range(400)))
    asked = ["evaluate", "--model", tiny_model_dir, "--scheme", "w:int8/channel,a:int8/tensor/static", *FEW]
    own, theirs = good(capsys, *asked), good(capsys, *asked, "--calibrate-on", mine)
    assert own["text"] == theirs["text"]
    assert own["calibration"]["source"] == "bundled calibration"
    assert (theirs["calibration"]["source"], theirs["calibration"]["chat"]) == (str(mine), False)
    assert len(theirs["calibration"]["text_hash"]) == 16
    assert own["report"]["kl"] != theirs["report"]["kl"]
    assert "has no chat template" in bad(capsys, *asked, "--calibrate-on", mine, "--chat")
    assert "--chat is for a text of your own" in bad(capsys, *asked, "--chat")
    named: list[str] = []

    def given(name: str) -> LoadedText:
        named.append(name)
        return LoadedText(name, ("A line about a lamp. " * 90,), "c0ffee")

    monkeypatch.setattr("quantcore.text.files.hub_text", given)
    found = good(capsys, *asked, "--text", "wikitext-2", "--calibrate-on", "owner/name:a.jsonl")
    assert sorted(named) == ["owner/name:a.jsonl", "wikitext-2"]
    assert found["text"]["revision"] == "c0ffee"
    assert "no file is called 'prompts/mine.txt'" in bad(capsys, *asked, "--text", "prompts/mine.txt")
