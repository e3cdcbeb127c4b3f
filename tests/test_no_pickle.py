"""Nothing that this project writes or reads can run code when it is opened: no pickle, in no file of ours."""

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import tiny_llama
from tools.train_reference_lm import Run

ROOT = Path(__file__).parents[1]
PICKLE = re.compile(r"torch\.(save|load)\(|pickle\.(load|Unpickler)|allow_pickle=True|read_pickle|joblib|shelve")
FILES = [file for room in ("quantcore", "ui", "pages", "tools", "benchmarks") for file in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("line", ["torch.load(path)", "np.load(f, allow_pickle=True)", "pickle.loads(b)"])
def test_a_pickle_is_seen(line: str) -> None:
    assert PICKLE.search(line)


def test_no_file_of_ours_reads_or_writes_a_pickle() -> None:
    assert len(FILES) > 150
    assert [str(file) for file in FILES if PICKLE.search(file.read_text(encoding="utf-8"))] == []


def begun() -> Run:
    model = tiny_llama()
    model.tie_weights()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.1}]
    return Run(model, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95)), 3)


def step(run: Run) -> float:
    model: LlamaForCausalLM = run.model
    loss = model(input_ids=torch.arange(32)[None], labels=torch.arange(32)[None]).loss
    loss.backward()
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    return float(loss.detach())


def test_a_training_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, file = begun(), tmp_path / "checkpoint.safetensors"
    losses = [step(whole), step(whole)]
    whole.curve.append({"step": 2, "loss": losses[-1]})
    whole.save(file)
    other = begun()
    other.load(file)
    assert (other.step, other.total, other.curve) == (2, 3, whole.curve)
    assert [step(other), step(other)] == [step(whole), step(whole)] != losses
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint.safetensors"]
