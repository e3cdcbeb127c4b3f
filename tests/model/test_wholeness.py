"""How much of a model can be quantized is said, and where it is little, the model is refused before the work."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.zoo_models import build, save, tokenizer
from quantcore.export.checkpoint import export_checkpoint
from quantcore.model.experts import taken_apart
from quantcore.model.loading import LoadedModel
from quantcore.model.wholeness import partly, require_much, wholeness_of
from quantcore.pipeline.convert import quantize_model
from tests.cli.test_cli import bad, good


def test_by_hand() -> None:
    """A Linear of 8 x 4 can be quantized, a matrix of 2 x 4 that stands by itself cannot: 32 of 40 numbers."""
    model = nn.Module()
    model.able, model.table, model.own = nn.Linear(4, 8), nn.Embedding(9, 4), nn.Parameter(torch.ones(2, 4))
    found = wholeness_of(model)
    assert (found.able, found.share) == (32, 0.8)
    assert {name: numbers for name, (numbers, _) in found.left.items()} == {"own": 8}


def test_a_mixture_is_whole_and_its_router_does_not_count() -> None:
    model = taken_apart(build("qwen3_moe"))
    assert wholeness_of(model).left == {}
    assert partly(model) is None


def test_what_a_mamba_keeps_float_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = save(build("mamba"), tmp_path / "mamba")
    found = good(capsys, "quantize", "--model", folder, "--scheme", "w:int8/channel", "--out", tmp_path / "out")
    said = "of this MambaForCausalLM can be quantized: 'mixer.A_log', 'mixer.dt_proj' must stay float: it is"
    assert any(said in one for one in found["notes"])
    assert any(said in one for one in found["notices"])


def test_a_model_of_which_little_can_be_quantized_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = build("jetmoe")
    with pytest.raises(ValueError, match="only 3% of this JetMoeForCausalLM can be quantized: 'mlp.input_linear'"):
        quantize_model(model, "w:int8/channel")
    with pytest.raises(ValueError, match="take another model"):
        require_much(model)
    lm = LoadedModel("random", model, tokenizer(), torch.device("cpu"))
    with pytest.raises(ValueError, match="only 3%"):
        export_checkpoint(lm, "w:int8/channel", tmp_path / "out")
    folder = save(model, tmp_path / "jetmoe")
    assert "only 3% of" in bad(capsys, "quantize", "--model", folder, "--scheme", "W8A8", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
