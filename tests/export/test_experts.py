"""A mixture's checkpoint: transformers reads our experts, or the export is refused before its work."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.zoo_models import build, save
from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.vllm import serving
from quantcore.model.loading import LoadedModel, load_model
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme
from tests.model.test_experts import made
from tests.tiny import tiny_tokenizer

TOKENS = torch.arange(3, 63).view(3, 20)
ROUTERS = [f"model.layers.{block}.{name}.gate" for name in ("mlp", "block_sparse_moe") for block in range(2)]


def mixture(kind: str = "Mixtral") -> LoadedModel:
    return LoadedModel(kind, made(kind), tiny_tokenizer(), torch.device("cpu"))


def written(folder: Path) -> tuple[set[str], dict[str, Any]]:
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    return names, json.loads((folder / "config.json").read_text())["quantization_config"]


def read(folder: Path) -> Tensor:
    """What transformers says with the checkpoint; it must miss nothing."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    with torch.no_grad():
        logits: Tensor = model(TOKENS, use_cache=False).logits
    return logits


@pytest.mark.parametrize(
    ("scheme", "read_as"),
    [
        ("w:int4/group16", None),
        ("w:int3/channel,gptq", None),
        ("w:int8/channel", None),
        ("w:fp8_e4m3/tensor@experts=w:fp8_e4m3/channel", None),
        # transformers dequantizes experts, so that their inputs stay float there
        ("FP8_DYNAMIC", "FP8_DYNAMIC@experts=w:fp8_e4m3/channel"),
        ("W8A8@experts=w:int8/channel", None),
        ("w:int4/group16,skip=experts,skip=lm_head", None),
        ("w:int4/group16@layers.0.mlp.experts=float", None),
    ],
)
def test_transformers_computes_what_we_do(scheme: str, read_as: str | None, tmp_path: Path) -> None:
    lm = mixture()
    if read_as:
        with pytest.raises(
            ValueError, match="does not round what enters those of .*; write @experts=w:fp8_e4m3/channel"
        ):
            export_checkpoint(lm, scheme, tmp_path / "out", TOKENS)
    report = export_checkpoint(lm, scheme, tmp_path / "out", TOKENS, reader="vllm" if read_as else "transformers")
    assert (report.logits_apart is None) is bool(read_as)
    quantized, _ = quantize_model(lm.model, read_as or scheme, calibration=TOKENS)
    with torch.no_grad():
        ours = quantized(TOKENS, use_cache=False).logits
        as_float = lm.model(TOKENS, use_cache=False).logits
    torch.testing.assert_close(read(tmp_path / "out"), ours, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, as_float, atol=1e-3)


def test_names_and_patterns(tmp_path: Path) -> None:
    export_checkpoint(mixture(), "w:int4/group16", tmp_path / "coded")
    names, config = written(tmp_path / "coded")
    assert any(name.endswith("experts.3.w2.weight_packed") for name in names)
    assert not any("gate_up_proj" in name for name in names)
    assert config["ignore"] == ["lm_head", *ROUTERS]  # both of their names
    export_checkpoint(mixture(), "w:int4/group16,skip=experts,skip=lm_head", tmp_path / "float")
    names, config = written(tmp_path / "float")
    assert any(name.endswith("layers.1.mlp.experts.gate_up_proj") for name in names)
    assert not any("experts.0." in name for name in names)
    pattern = r"re:model\.layers\.0\.mlp\.experts\.\d+\.(w1|w3|w2)$"
    assert pattern in config["ignore"]
    export_checkpoint(mixture(), "W8A8@experts=w:int8/channel", tmp_path / "mixed")
    groups = written(tmp_path / "mixed")[1]["config_groups"].values()
    (named,) = (one for one in groups if pattern in one["targets"])
    assert named["input_activations"] is None


@pytest.mark.parametrize(
    ("kind", "scheme", "sentence"),
    [
        ("Mixtral", "w:int4/group16/asym", "experts with zero points; write @experts=w:int4/group16 behind the scheme"),
        ("Mixtral", "W8A8", "integer weights and rounded inputs .*; write @experts=w:int8/channel behind the scheme"),
        ("Mixtral", "w:int8/channel@w2=w:int4/channel", "reads one scheme for all experts, and those of .* 2 schemes"),
        ("Mixtral", "w:int8/channel@w2=float", "one for some of their 12 layers; give them one, or skip=experts"),
        ("Mixtral", "w:int8/channel@layers.0=w:int4/channel", "one scheme for all experts, and these have .* and "),
        (
            "GptOss",
            "w:int4/group16",
            "keep the experts of .* in one tensor, where transformers reads no codes; export with",
        ),
    ],
)
def test_what_transformers_does_not_read_is_refused_before_the_work(
    kind: str, scheme: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantcore.pipeline.road.quantize_together", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(ValueError, match=sentence) as refused:
        export_checkpoint(mixture(kind), scheme, tmp_path / "out", TOKENS)
    assert len(str(refused.value)) < 400
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "scheme",
    [
        "w:int4/group16/asym",  # a width of 128 they need not have
        "W8A8",
        "FP8_DYNAMIC,smooth=0.5",
        "FP8,experts=all,skip=o_proj",
        "FP8_DYNAMIC,gptq,experts=all",
        "FP8_DYNAMIC,rotate=random",
    ],
)
def test_the_exception_that_a_refusal_offers_can_be_taken(scheme: str, tmp_path: Path) -> None:
    lm = mixture()
    with pytest.raises(ValueError, match="does not (round|read)") as refused:
        export_checkpoint(lm, scheme, tmp_path / "out", TOKENS)
    offered = re.search("write (@experts=[^ ]*) behind", str(refused.value))
    assert offered
    assert ("experts=all" in offered[1]) == ("gptq" in scheme)  # what it learns from stays, where it still learns
    assert export_checkpoint(lm, scheme + offered[1], tmp_path / "out", TOKENS).logits_apart is not None


def test_float_experts_of_a_kind_that_stays_fused(tmp_path: Path) -> None:
    """Transposed, interleaved and with biases: put together as they were."""
    lm = mixture("GptOss")
    scheme = "w:int4/group16,skip=experts,skip=lm_head"
    export_checkpoint(lm, scheme, tmp_path / "out")
    quantized, _ = quantize_model(lm.model, scheme)
    with torch.no_grad():
        ours = quantized(TOKENS, use_cache=False).logits
    torch.testing.assert_close(read(tmp_path / "out"), ours, rtol=1e-4, atol=1e-4)


def test_what_vllm_says_of_experts() -> None:
    place = "model.layers.0.mlp.experts"

    def problems(text: str, experts: str | None = None) -> str:
        schemes = {"model.layers.0.self_attn.o_proj": Scheme.parse(text)}
        if experts:
            schemes[f"{place}.0.w1"] = Scheme.parse(experts)
        return " ".join(serving("out", schemes, 64, [place]).problems)

    assert "experts that stay float lie in one tensor" in problems("W4A16")
    assert problems("W4A16", "W4A16") == ""
    assert "no kernel for experts under w:fp8_e4m3/channel" in problems("FP8_DYNAMIC", "w:fp8_e4m3/channel")
    assert "one input scale, the largest" in problems("FP8", "FP8")


def test_what_a_router_adds_to_its_scores_is_not_rounded(tmp_path: Path) -> None:
    """float32 on the hub beside parameters of 16 bits: in bfloat16 near experts would change places."""
    model = build("deepseek_v3").bfloat16().float()
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    model.get_buffer(name).copy_(torch.tensor([0.1000, 0.1001, 0.1002, 0.1003]))
    lm = load_model(str(save(model, tmp_path / "model")), "cpu")
    report = export_checkpoint(lm, "w:int8/channel", tmp_path / "out")
    assert report.dtype == "bfloat16"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(tensors[name], model.get_buffer(name))
    assert tensors["model.layers.1.mlp.gate.weight"].dtype == torch.bfloat16
