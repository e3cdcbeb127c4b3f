"""What transformers renames, fuses, ties, computes or passes over while it loads is not refused, where it is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from quantcore.measure.store import model_hash
from quantcore.model.experts import taken_apart
from quantcore.model.inventory import inventory
from quantcore.model.loading import LoadedModel, load_model
from quantcore.model.streamed import StreamedModel
from tests.model.broken_folders import HEAD
from tests.model.changes import besides, weights
from tests.tiny import VOCAB

WAYS: dict[str, Callable[[str, str], Any]] = {"whole": load_model, "streamed": StreamedModel}
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
}  # fmt: skip
OLD = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS: dict[str, dict[str, Any]] = {  # what transformers renames, fuses, ties or computes while it loads
    "Mixtral": SIZES | {"num_local_experts": 4},
    "Qwen3Moe": SIZES | EXPERTS | {"head_dim": 8},
    "DeepseekV3": SIZES | LATENT,
    "DeepseekV4": SIZES  # its first router is a table of whole numbers
    | {
        "num_hidden_layers": 3, "num_key_value_heads": 1, "moe_intermediate_size": 16, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "head_dim": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "o_lora_rank": 8,
        "o_groups": 2, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4, "num_hash_layers": 1,
    },
    "GptOss": SIZES | {"num_local_experts": 4, "head_dim": 8},
    "GPT2": OLD,
    "GPTJ": OLD | {"rotary_dim": 4},
    "GPTNeoX": SIZES,
    "Bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mamba": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
    "Gemma2": SIZES | {"head_dim": 8},
}  # fmt: skip


def saved(kind: str, path: Path, tokenizer: Any, **more: Any) -> torch.nn.Module:
    """A random model of a kind, and its folder."""
    made: Any = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, f"{kind}Config")(**KINDS[kind], **more)
    )
    made.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return made.eval().requires_grad_(False)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, theirs = taken_apart(a).state_dict(), taken_apart(b).state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in mine.items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_save_pretrained_writes_is_loaded(kind: str, tmp_path: Path, tiny_lm: LoadedModel) -> None:
    made = saved(kind, tmp_path, tiny_lm.tokenizer)
    loaded = load_model(str(tmp_path), "cpu")
    assert same(loaded.model, made)
    tokens = torch.randint(3, VOCAB, (2, 16))
    torch.testing.assert_close(loaded.model(tokens).logits, made(tokens).logits)
    inventory(str(tmp_path))
    assert model_hash(StreamedModel(str(tmp_path), "cpu")) == model_hash(loaded.model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("tried", "change", "sentence"),
    [
        (
            "one expert less",
            "experts.3.",
            r"experts.down_proj' has shape \(3, 32, 16\) in its files .*\(4, 32, 16\)",
        ),
        ("an expert in the middle", "experts.1.", "its files lack 'model.layers.0.mlp.experts.1.*', an expert's"),
        (
            "half of an expert",
            "layers.1.mlp.experts.3.up_proj",
            "cannot make 'model.layers.1.mlp.experts.gate_up_proj'",
        ),
        ("a router", "layers.1.mlp.gate.weight", "its files lack 'model.layers.1.mlp.gate.weight'"),
    ],
)
def test_refused_experts(
    tried: str, change: str, sentence: str, way: str, tmp_path: Path, tiny_lm: LoadedModel
) -> None:
    saved("Qwen3Moe", tmp_path, tiny_lm.tokenizer)
    weights(lambda held: {name: one for name, one in held.items() if change not in name})(tmp_path)
    with pytest.raises(ValueError, match=sentence) as no:
        WAYS[way](str(tmp_path), "cpu")
    assert len(str(no.value)) < 400


def test_experts_that_the_files_hold_fused(tmp_path: Path, tiny_lm: LoadedModel) -> None:
    made = saved("Qwen3Moe", tmp_path, tiny_lm.tokenizer)
    save_file({name: one.contiguous() for name, one in made.state_dict().items()}, tmp_path / "model.safetensors")
    assert same(load_model(str(tmp_path), "cpu").model, made)
    assert model_hash(StreamedModel(str(tmp_path), "cpu")) == model_hash(taken_apart(made))


def test_names_without_the_base_models_prefix(tmp_path: Path, tiny_lm: LoadedModel) -> None:
    """As GPT-2's own files have them; its masks lie in them too."""
    made = saved("GPT2", tmp_path, tiny_lm.tokenizer)
    weights(lambda held: {name.removeprefix("transformer."): one for name, one in held.items()})(tmp_path)
    besides(h__0__attn__bias=torch.ones(1, 1, 64, 64, dtype=torch.bool))(tmp_path)
    assert same(load_model(str(tmp_path), "cpu").model, made)
    assert model_hash(StreamedModel(str(tmp_path), "cpu")) == model_hash(made)


def test_a_draft_head_that_transformers_passes_over(tmp_path: Path, tiny_lm: LoadedModel) -> None:
    made = saved("DeepseekV3", tmp_path, tiny_lm.tokenizer)
    besides(model__layers__61__eh_proj__weight=torch.ones(2, 2))(tmp_path)
    assert same(load_model(str(tmp_path), "cpu").model, made)
    besides(model__layers__60__eh_proj__weight=torch.ones(2, 2))(tmp_path)
    with pytest.raises(ValueError, match="hold 'model.layers.60.eh_proj.weight', for which the model .* has no place"):
        load_model(str(tmp_path), "cpu")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_a_prefix_is_named_where_the_head_is_tied(prefix: str, tmp_path: Path, tiny_lm: LoadedModel) -> None:
    """The head is missing too, and nothing in the files has its name."""
    saved("Gemma2", tmp_path, tiny_lm.tokenizer)
    weights(lambda held: {prefix + name: one for name, one in held.items()})(tmp_path)
    for way in WAYS.values():
        with pytest.raises(ValueError, match=f"rename them without '{prefix}', which torch.compile or a trainer adds"):
            way(str(tmp_path), "cpu")


def test_a_tied_head_that_the_files_hold_twice(tmp_path: Path, tiny_lm: LoadedModel) -> None:
    made = saved("Gemma2", tmp_path, tiny_lm.tokenizer)
    table = "model.embed_tokens.weight"
    weights(lambda held: held | {HEAD: held[table].clone()})(tmp_path)
    assert same(load_model(str(tmp_path), "cpu").model, made)
    assert model_hash(StreamedModel(str(tmp_path), "cpu")) == model_hash(made)
    weights(lambda held: held | {HEAD: held[table] + torch.eye(VOCAB)[:, :32]})(tmp_path)
    for way in WAYS.values():
        with pytest.raises(
            ValueError, match="ties 'lm_head.weight' to 'model.embed_tokens.weight', and .* differ; set"
        ):
            way(str(tmp_path), "cpu")
