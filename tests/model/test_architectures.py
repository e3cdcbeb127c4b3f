"""Quantizing, comparing and measuring layers works for tiny random models of other kinds than Llama."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.zoo_models import build, save
from quantcore import calibrate, compare, load_model, quantize_model
from quantcore.matmul.size import checkpoint_bytes, quantized_linears
from quantcore.measure.duel import duel
from quantcore.measure.planning import plan_for_budget
from quantcore.measure.sensitivity import sensitivity
from quantcore.measure.store import Store
from quantcore.model.experts import taken_apart
from quantcore.model.inventory import inventory
from quantcore.model.layer_names import measured_together
from quantcore.model.linears import left_float, linears
from quantcore.model.loading import LoadedModel
from quantcore.scheme.scheme import Scheme
from tests.tiny import VOCAB

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GLU = {"intermediate_size": 64, "num_key_value_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {**SIZES, **GLU},
    "Qwen3": {**SIZES, **GLU, "head_dim": 8},
    "GPT2": {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "OPT": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "Gemma": {**SIZES, **GLU, "head_dim": 8},
    "Mixtral": {**SIZES, **GLU, "num_local_experts": 4, "num_experts_per_tok": 2},
}
GLU_LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MODULES = {  # what a block of each kind multiplies with
    "Llama": GLU_LINEARS,
    "Qwen3": GLU_LINEARS,
    "GPT2": {"c_attn", "c_proj", "c_fc"},
    "OPT": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "Gemma": GLU_LINEARS,
    "Mixtral": {"q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"},
}
LEFT = {"Mixtral": {"mlp.gate.weight"}}
SCHEMES = ["w:int2/channel", "w:int8/channel"]
STATIC = "w:int8/channel,a:int8/tensor/static"
GPTQ = "w:int4/group16,gptq"


def tiny(kind: str, **more: Any) -> torch.nn.Module:
    """`fused` with its experts apart."""
    return taken_apart(fused(kind, **more))


def fused(kind: str, **more: Any) -> Any:
    """A random model of a kind; `pad`, `bos` and `eos` lie inside its small vocabulary."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**{**KINDS[kind], **special, "initializer_range": 0.1, **more})
    model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(False)


def quantized_names(reports: list[Any]) -> list[str]:
    return [report.name for report in reports if report.scheme != "float"]


@pytest.mark.parametrize("scheme", ["w:int8/channel", STATIC, GPTQ])
@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_is_quantized_and_what_is_left_is_named(kind: str, scheme: str) -> None:
    model, tokens = tiny(kind), torch.randint(3, 128, (4, 24))
    quantized, reports = quantize_model(model, scheme, tokens)
    done = quantized_names(reports)
    assert done == [name for name in linears(model) if name != "lm_head"]
    assert {name.rpartition(".")[2] for name in done} == MODULES[kind]
    assert list(quantized_linears(quantized)) == done
    assert all(report.output_sqnr_db > 8 for report in reports if report.name in done)
    rest = {report.name: report for report in reports if report.scheme == "float"}
    assert {name.split(".", 3)[3] for name in rest} == LEFT.get(kind, set())
    assert all(report.notes and "not quantized" in report.notes[0] for report in rest.values())
    assert rest.keys() == left_float(model).keys()
    weights = sum(layer.weight.numel() for layer in linears(model).values()) + sum(
        parameter.numel() for parameter in left_float(model).values()
    )
    embeddings = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    tied = id(model.get_output_embeddings().weight) in embeddings
    counted = (
        weights + sum(w.numel() for w in embeddings.values()) - (tied and linears(model)["lm_head"].weight.numel())
    )
    assert counted == sum(p.numel() for p in model.parameters() if p.ndim > 1)  # no matrix is passed over in silence
    assert 0 < compare(model, quantized, tokens).kl < 0.5
    assert checkpoint_bytes(quantized) < checkpoint_bytes(model)


def test_a_conv1d_is_quantized_as_the_linear_it_is() -> None:
    """GPT-2's layers keep W as (in, out): the codes are those of the transposed weight, and the model stays itself."""
    model, tokens = tiny("GPT2"), torch.randint(3, 128, (4, 24))
    name = "transformer.h.1.mlp.c_fc"
    conv, before = model.get_submodule(name), model(tokens).logits
    assert isinstance(conv, Conv1D)
    view = linears(model)[name]
    assert (view.out_features, view.in_features) == (128, 32)
    x = torch.randn(5, 32)
    torch.testing.assert_close(view(x), conv(x))
    twin = nn.Linear(32, 128)
    twin.weight.data, twin.bias.data = conv.weight.T.contiguous(), conv.bias
    expected, _ = quantize_model(nn.ModuleDict({"layer": twin}), "w:int4/group16")
    found = quantize_model(model, "w:int4/group16")[0].get_submodule(name)
    assert torch.equal(found.qweight.q, expected["layer"].qweight.q)
    torch.testing.assert_close(found(x), expected["layer"](x))
    stats = calibrate(model, tokens, [name])[name]
    assert stats.tokens == tokens.numel()
    assert stats.hessian is not None
    assert stats.hessian.shape == (32, 32)
    assert isinstance(model.get_submodule(name), Conv1D)
    assert torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize(("kind", "count"), [("Llama", 14), ("GPT2", 8)])
def test_a_model_that_still_takes_gradients(kind: str, count: int) -> None:
    """As `from_pretrained` gives it: quantized without a warning, and left as it was."""
    model, tokens = tiny(kind).requires_grad_(True), torch.randint(3, 128, (4, 24))
    quantized, reports = quantize_model(model, GPTQ, tokens)
    assert len(quantized_names(reports)) == count
    assert 0 < compare(model, quantized, tokens).kl < 0.5
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["GPT2", "Mixtral"])
def test_info_names_what_the_loaded_model_has(kind: str, tmp_path: Path, tiny_lm: LoadedModel) -> None:
    fused(kind, vocab_size=VOCAB).save_pretrained(tmp_path)
    tiny_lm.tokenizer.save_pretrained(tmp_path)
    found, loaded = inventory(str(tmp_path)), load_model(str(tmp_path), "cpu")
    assert found.linears == {n: (m.out_features, m.in_features) for n, m in linears(loaded.model).items()}
    assert found.left_float == {name: tuple(p.shape) for name, p in left_float(loaded.model).items()}
    assert found.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert (found.blocks, found.tied_head) == (2, kind == "GPT2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_duel_of_any_kind(kind: str, tiny_lm: LoadedModel, tmp_path: Path) -> None:
    model, tokens = tiny(kind), torch.randint(3, 128, (6, 24))
    loaded = LoadedModel(kind, model, tiny_lm.tokenizer, torch.device("cpu"))
    found = duel(loaded, ("float", *SCHEMES, STATIC), tokens, tokens, Store(tmp_path / "store.sqlite"))
    assert found.reports["float"].kl_max == 0
    assert 0 < found.reports["w:int8/channel"].kl < found.reports["w:int2/channel"].kl
    assert found.reports["w:int2/channel"].bytes < found.reports["w:int8/channel"].bytes
    assert found.reports[str(Scheme.parse(STATIC))].kl > 0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_any_kind(kind: str) -> None:
    model, tokens = tiny(kind), torch.randint(3, 128, (4, 24))
    found = sensitivity(model, SCHEMES, tokens)
    whole, _ = quantize_model(model, SCHEMES[0])
    layer, members = list(measured_together(quantized_linears(whole)).items())[-1]
    alone, _ = quantize_model(model, "float")
    for one in members:
        alone.set_submodule(one, whole.get_submodule(one))
    assert found.alone[layer, SCHEMES[0]] == pytest.approx(compare(model, alone, tokens).kl, rel=1e-3)
    chosen = plan_for_budget(found, found.mean_bits(dict.fromkeys(found.layers, SCHEMES[1])) - 2)
    planned, reports = quantize_model(model, chosen.plan)
    schemes = {report.name: report.scheme for report in reports if report.scheme != "float"}
    together = measured_together(schemes)
    assert {unit: {schemes[one] for one in members} for unit, members in together.items()} == {
        unit: {scheme} for unit, scheme in chosen.choice.items()
    }
    assert compare(model, planned, tokens).kl < found.whole[SCHEMES[0]]


def test_a_model_that_hides_its_embeddings_is_refused(tmp_path: Path) -> None:
    folder = save(build("pp_formulanet"), tmp_path / "model")
    with pytest.raises(ValueError, match="PPFormulaNet.* does not say where it keeps its tokens'"):
        load_model(str(folder), "cpu")
