"""Two processes that torchrun starts do what one does: the same codes but for ties, losses and KL but for rounding."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quantcore.cli import torchrun
from quantcore.cli.command import main
from quantcore.numbers.packing import unpack
from tests import forked

SCHEME = "w:int4/group32,gptq"
# narrow: absmax / 7.5 puts a weight between two codes, and the last digit of AWQ's scales says which it gets
ALL = "w:int4_narrow/group32,awq,gptq@down_proj=w:int4_narrow/group32,qronos"
TEXT = ("--max-tokens", "1600", "--window", "64")
EXACT_BLOCK = 0.001  # of the first block's codes: ties, which a sum in another order may turn
WHOLE = 0.01  # of losses and KL


def two(*arguments: str, store: Path, module: str = "quantcore") -> subprocess.CompletedProcess[str]:
    """torchrun's agent and its two ranks, forked (tests/forked_ranks.py)."""
    return forked.run("-m", "tests.forked_ranks", module, *arguments, env=environment(store), timeout=900)


def torchrun_itself(*arguments: str, store: Path) -> subprocess.CompletedProcess[str]:
    """The same with ranks as a user's agent starts them, each a Python of its own; seconds more, of imports in both."""
    agent = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "quantcore")
    return forked.run(*agent, *arguments, env=environment(store), timeout=900)


def environment(store: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "QUANT_HOME": str(store)}


def alone(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What this process answers by itself; its results are kept where no other finds them."""
    assert main(list(arguments)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def codes(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    packed = {name: tensor for name, tensor in tensors.items() if name.endswith("weight_packed")}
    return {
        name: unpack(tensor.view(torch.uint8), 4, 2 * tensor.view(torch.uint8).shape[1])
        for name, tensor in packed.items()
    }


def test_a_checkpoint_of_two_processes_is_that_of_one(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AWQ's scales, GPTQ's Hessians, and what Qronos compares: each sums up over both."""
    asked = ("quantize", "--model", str(tiny_model_dir), "--scheme", ALL, "--device", "cpu", *TEXT)
    one = alone(capsys, *asked, "--out", str(tmp_path / "one"))
    both = answer(torchrun_itself(*asked, "--out", str(tmp_path / "both"), store=tmp_path))
    assert both["device"] == f"2 x {one['device'].partition(',')[0]}, 1 threads"
    assert [layer["name"] for layer in both["layers"]] == [layer["name"] for layer in one["layers"]]
    for mine, theirs in zip(both["layers"], one["layers"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=WHOLE)
        assert mine["rtn_loss"] == pytest.approx(theirs["rtn_loss"], rel=WHOLE)
    found, expected = codes(tmp_path / "both"), codes(tmp_path / "one")
    first = [name for name in expected if ".layers.0." in name]
    assert len(first) == 7
    other = sum(int((found[name] != expected[name]).sum()) for name in first)
    assert other <= EXACT_BLOCK * sum(expected[name].numel() for name in first)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_figures_of_two_processes_are_those_of_one(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schemes = (SCHEME, "w:int8/channel,a:int8/tensor/static/ema0.1")
    asked = ("compare", "--model", str(tiny_model_dir), "--device", "cpu", *TEXT, "--schemes", *schemes)
    one = figures(alone(capsys, *asked))
    both = figures(answer(two(*asked, store=tmp_path)))
    assert list(both) == list(one)
    for scheme, row in one.items():
        for figure in ("KL", "perplexity"):
            assert both[scheme][figure] == pytest.approx(row[figure], rel=WHOLE)


def figures(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The first table of a comparison, by scheme."""
    table = found["tables"][0]
    return {row[1]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}


def test_the_layers_costs_of_two_processes_are_those_of_one(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("sensitivity", "--model", str(tiny_model_dir), "--device", "cpu", *TEXT, "--schemes", "w:int3/group32")
    one = alone(capsys, *asked)
    both = answer(two(*asked, store=tmp_path))
    assert both["ranked"] == one["ranked"]
    for layer, costs in one["layers"].items():
        for scheme, cost in costs["schemes"].items():
            assert both["layers"][layer]["schemes"][scheme]["kl"] == pytest.approx(cost["kl"], rel=WHOLE)


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("dies", torchrun.ENDED),
        ("refuses", "model.layers.1.self_attn.q_proj cannot be solved here; try another machine"),
    ],
)
def test_trouble_of_one_ends_all_with_one_sentence(
    tiny_model_dir: Path, tmp_path: Path, trouble: str, sentence: str
) -> None:
    asked = ("quantize", "--model", str(tiny_model_dir), "--scheme", SCHEME, "--device", "cpu", *TEXT)
    asked = (trouble, *asked, "--out", str(tmp_path / "out"))
    done = two(*asked, store=tmp_path / "store", module="tests.rank_in_trouble")
    assert done.returncode != 0
    assert done.stdout == ""
    told = [line for line in done.stderr.splitlines() if "quantcore: " in line]
    assert len(told) == 1, done.stderr[-3000:]
    assert sentence in told[0]
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == []


def test_verbs_that_are_not_shared_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="recipe is no work for several processes; torchrun shares out quantize"):
        torchrun.require_shared("recipe")
    monkeypatch.delenv("WORLD_SIZE")
    torchrun.require_shared("recipe")


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torchrun.device_here("cuda:1") == "cuda:1"  # alone
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert torchrun.device_here(None) == torchrun.device_here("cuda") == "cuda:1"
    assert torchrun.device_here("cpu") == "cpu"
    with pytest.raises(ValueError, match="every process takes a GPU of its own; leave out --device cuda:0"):
        torchrun.device_here("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="more processes on this machine than it has GPUs, 2; use --nproc-per-node 2"):
        torchrun.device_here(None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert torchrun.device_here(None) == "cpu"
