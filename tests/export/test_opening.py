"""What transformers will make of a checkpoint is known before the work, and asked again of the files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from benchmarks.zoo_models import build, tokenizer
from quantcore.export import writing
from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.checkpoint_format import formats, layer_shapes, layer_tensors
from quantcore.export.forms import loadable, runs_in
from quantcore.export.opening import named, of_files, why_not
from quantcore.model.loading import LoadedModel, load_model
from quantcore.pipeline.calibration import LayerStats
from quantcore.pipeline.layers import quantize_linear, static_qparams
from quantcore.scheme.scheme import Scheme
from tests.model.test_architectures import tiny
from tests.tiny import tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def made(kind: str, **more: Any) -> LoadedModel:
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return LoadedModel(kind, model, tiny_tokenizer(), torch.device("cpu"))


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize(
    "text",
    ["w:int4/group16", "w:int3/channel/asym", "w:int5/block16x32/asym", "w:int4/tensor", "w:fp8_e4m3/channel",
     "w:int8/channel,a:int8/tensor/static", "w:int8/channel,a:int8/tensor/static/p99.9"],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False])
def test_what_is_promised_of_a_layer_is_what_it_stores(text: str, packed: bool) -> None:
    scheme, layer, stats = Scheme.parse(text), nn.Linear(64, 32), LayerStats()
    stats.update(torch.randn(2, 8, 64), hessian=False)
    layout = formats({"layer": scheme}, packed)["layer"]
    static = static_qparams(scheme.activations, stats)
    written = layer_tensors(quantize_linear(layer.requires_grad_(False), scheme, static), layout, torch.bfloat16)
    promised = dict(layer_shapes(layer, scheme, layout, torch.bfloat16))
    assert promised == {name: (tuple(one.shape), one.dtype) for name, one in written.items()}


def test_a_model_that_cannot_load_packed_words_says_how_it_does(tmp_path: Path) -> None:
    """Falcon's own initialization reads the weight of a Linear that has only packed words yet."""
    lm, tokens = made("Falcon", new_decoder_architecture=False), torch.randint(3, 300, (2, 16))
    report = export_checkpoint(lm, "w:int4/group16", tmp_path / "out")
    assert report.notes == ("transformers makes floats of the codes as it loads them",)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name in (f"transformer.h.{block}.mlp.dense_h_to_4h" for block in range(2)):
        off = read.get_submodule(name).weight - lm.model.get_submodule(name).weight
        assert 0 < off.abs().max() < 0.05
    assert torch.isfinite(logits(read, tokens)).all()


@pytest.mark.parametrize("whole", ["", ",smooth=0.5"])  # what speaks of the whole model is not said again
def test_tokens_without_windows_are_told_before_the_work(whole: str, tmp_path: Path) -> None:
    lm = LoadedModel("random", tiny("OPT"), tiny_tokenizer(), torch.device("cpu"))
    tokens, instead = torch.randint(3, 60, (2, 16)), "w:int8/channel,a:int8/tensor/dynamic"
    with pytest.raises(ValueError, match=f"take @fc1,fc2={instead}, .* or for vLLM --reader vllm"):
        export_checkpoint(lm, f"W8A8{whole}", tmp_path / "out", tokens, progress=lambda *_: pytest.fail("too late"))
    assert not (tmp_path / "out").exists()
    export_checkpoint(lm, f"W8A8{whole}@fc1,fc2={instead}", tmp_path / "out", tokens)
    report = export_checkpoint(lm, f"W8A8{whole}", tmp_path / "other", tokens, reader="vllm")
    assert "gives several tokens one scale" in report.notes[0]


def test_a_reader_that_nobody_knows() -> None:
    lm = made("Llama", intermediate_size=64)
    with pytest.raises(ValueError, match="'sglang' is no reader .* take transformers or vllm"):
        loadable(lm.model, {}, torch.float32, "sglang")


def test_what_was_written_is_opened_before_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = made("Llama", intermediate_size=64)
    parts = writing.checkpoint_parts

    def forgetful(*args: Any) -> Any:
        yield from (part for part in parts(*args) if not part[0].endswith("1.input_layernorm"))

    monkeypatch.setattr(writing, "checkpoint_parts", forgetful)
    with pytest.raises(ValueError, match="would find no 'model.layers.1.input_layernorm.weight'"):
        export_checkpoint(lm, "w:int8/channel,a:int8/token/dynamic", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_files_that_hold_what_was_promised_are_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers was asked for these very names, shapes and types before the work."""
    asked: list[str] = []
    monkeypatch.setattr("quantcore.export.opening.why_not", lambda *_: asked.append("again"))
    lm = made("Mixtral", num_key_value_heads=2, intermediate_size=32, num_local_experts=4)
    export_checkpoint(lm, "w:int4/group16", tmp_path / "out")
    assert asked == []


def test_why_not_names_what_is_too_much_or_of_another_shape(tmp_path: Path) -> None:
    lm = made("Llama", intermediate_size=64)
    lm.model.save_pretrained(tmp_path)
    tensors = of_files(tmp_path)
    assert why_not(lm.model, lm.model.config, tensors) is None
    more = {**tensors, "model.layers.0.extra.weight": torch.empty(2, 2, device="meta")}
    assert "no place for 'model.layers.0.extra.weight'" in str(why_not(lm.model, lm.model.config, more))
    other = {**tensors, "model.norm.weight": torch.empty(7, device="meta")}
    assert "'model.norm.weight' in shape (32,), not (7,)" in str(why_not(lm.model, lm.model.config, other))


def vision() -> Any:
    text = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8, "max_position_embeddings": 1024}
    seen = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
            "image_size": 32, "patch_size": 8}  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=seen, mm_tokens_per_image=4, image_token_index=299, boi_token_index=298,
        eoi_token_index=297,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("scheme", ["w:int4/group16,gptq", "w:int8/channel,a:int8/tensor/static"])
def test_a_model_of_pictures_and_words(scheme: str, tmp_path: Path) -> None:
    vision().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    (tmp_path / "model" / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    lm = load_model(str(tmp_path / "model"), "cpu")
    tokens = torch.randint(3, 290, (2, 16))
    assert lm.context == 1024
    report = export_checkpoint(lm, scheme, tmp_path / "out", tokens)
    done = [layer.name for layer in report.layers if layer.scheme != "float"]
    assert len(done) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in done)
    left = {layer.name: layer.notes[0] for layer in report.layers if layer.scheme == "float"}
    assert "do not reach" in left["model.vision_tower.encoder.layers.0.mlp.fc1.weight"]
    assert "model.multi_modal_projector.mm_input_projection_weight" in left
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == {"image_mean": [0.5]}
    template = json.loads((tmp_path / "out" / "chat_template.json").read_text())
    assert template == {"chat_template": "{{ messages }}"}
    hub, written = of_files(tmp_path / "model"), of_files(tmp_path / "out")
    assert {name for name in hub if name.endswith(("norm.weight", "fc1.weight", "embed_tokens.weight"))} <= set(written)
    read = type(lm.model).from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.isfinite(logits(read, tokens)).all()


def test_names_are_the_hubs() -> None:
    model = vision()
    hub = named(model, dict(model.state_dict()))
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in hub
    lm = made("Mixtral", num_key_value_heads=2, intermediate_size=64, num_local_experts=4, num_experts_per_tok=2)
    tensors = {
        "model.layers.1.mlp.experts.3.w2.weight_scale": torch.ones(1),
        "model.layers.1.mlp.gate.weight": torch.ones(1),
    }
    assert set(named(lm.model, tensors)) == {
        "model.layers.1.block_sparse_moe.experts.3.w2.weight_scale",
        "model.layers.1.block_sparse_moe.gate.weight",
    }


def test_what_the_hub_keeps_in_one_tensor_outside_of_the_blocks_is_written_in_one(tmp_path: Path) -> None:
    """A tower's q, k and v are three Linears here, and one tensor of the hub's files."""
    lm = LoadedModel("step3p7", build("step3p7"), tokenizer(), torch.device("cpu"))
    assert export_checkpoint(lm, "w:int8/group16", tmp_path / "out").logits_apart == pytest.approx(0, abs=1e-5)
    joined = [one for name, one in of_files(tmp_path / "out").items() if name.endswith("attn.in_proj_weight")]
    assert {tuple(one.shape) for one in joined} == {(3 * 64, 64)}


@pytest.mark.parametrize(
    ("layouts", "dequantize", "kind"),
    [
        (["pack-quantized", "float-quantized"], False, torch.float32),
        (["pack-quantized", "nvfp4-pack-quantized"], False, torch.bfloat16),
        (["mxfp8-quantized"], False, torch.bfloat16),
        (["nvfp4-pack-quantized"], True, torch.float32),  # made floats once, at loading
    ],
)
def test_the_type_in_which_transformers_runs_codes(layouts: list[str], dequantize: bool, kind: torch.dtype) -> None:
    assert runs_in(layouts, dequantize) is kind
