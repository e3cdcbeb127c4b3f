"""Turns of inputs in a checkpoint: compressed-tensors' own transforms do from its config what our model does."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from quantcore.export.checkpoint import export_checkpoint
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.convert import quantize_model
from tests.model.test_experts import made


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("words", ["rotate=hadamard/r4", "quip=hadamard/16"])
def test_compressed_tensors_turns_as_we_do(tiny_lm: LoadedModel, tokens: Tensor, words: str, tmp_path: Path) -> None:
    transform = pytest.importorskip("compressed_tensors.transform")
    plan = f"w:int8/channel,{words}"
    export_checkpoint(tiny_lm, plan, tmp_path / "out", dtype=torch.float32, reader="vllm")
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["transform_config"]
    quantized, _ = quantize_model(tiny_lm.model, plan)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        ours, untouched = quantized(tokens).logits, loaded(tokens).logits
    assert (untouched - ours).abs().max() > 0.1 * ours.abs().max()  # transformers leaves the entry out
    config = transform.TransformConfig(**entry)
    for scheme in config.config_groups.values():
        assert [one.location for one in scheme.apply] == ["input", "weight_input"]
        scheme.apply = [one for one in scheme.apply if one.is_online()]  # the weights are turned already
    transform.apply_transform_config(loaded, config)
    with torch.inference_mode():
        theirs = loaded(tokens).logits
    assert (theirs - ours).abs().max() < 1e-3 * ours.abs().max()


@pytest.mark.parametrize(
    ("words", "reader", "message"),
    [
        ("rotate=hadamard/r4", "transformers", "transformers 5.24 would leave that out; write it for vLLM"),
        ("quip=signed", "vllm", "by matrices that no reader knows from their type; quip=hadamard"),
        ("wush=16", "vllm", "wush=16 turns inputs by matrices that no reader knows"),
    ],
)
def test_what_no_reader_would_do_is_refused(
    tiny_lm: LoadedModel, tokens: Tensor, words: str, reader: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_checkpoint(tiny_lm, f"w:int8/channel,{words}", tmp_path / "out", tokens, reader=reader)
    assert not (tmp_path / "out").exists()


def test_experts_that_vllm_would_leave_unturned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="24 experts' Linears, and vLLM, .* would leave that out; write skip=experts"):
        export_checkpoint(made("Mixtral"), "w:int8/channel,quip=hadamard", tmp_path / "out", reader="vllm")
    assert not (tmp_path / "out").exists()
