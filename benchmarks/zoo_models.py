"""Tiny random models of every architecture that transformers knows as a causal language model, made from its
configuration class alone: widths, blocks, heads and experts are made small by their names.

    model = build("llama")            names(): every type of model that is tried
    save(model, folder)               with a tokenizer of 512 tokens

Weights are random, so figures mean nothing; names, shapes, hooks and files are those of the large models.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

VOCABULARY, WIDTH, CONTEXT = 512, 64, 256
MOST = 30_000_000  # parameters
SIZES: tuple[tuple[int, str], ...] = (  # a number, and the names of what it is given to
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    (
        WIDTH,
        "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim attention_hidden_size lru_width "
        "hidden_size_global",
    ),
    (CONTEXT, "max_position_embeddings n_positions max_seq_len n_ctx context_length max_sequence_length"),
    (
        128,
        "intermediate_size n_inner ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size intermediate_size_mlp "
        "dense_intermediate_size shared_intermediate_size mamba_d_ssm",
    ),
    (64, "moe_shared_expert_intermediate_size shared_expert_intermediate_size"),
    (32, "moe_intermediate_size expert_ffn_hidden_size kv_lora_rank q_lora_rank moe_latent_size image_size"),
    (
        16,
        "head_dim v_head_dim sliding_window window_size attention_window local_attention mamba_d_head mamba_head_dim "
        "kv_channels attention_head_size hidden_size_per_layer_input state_size mamba_d_state chunk_size "
        "mamba_chunk_size "
        "ssm_state_size index_head_dim linear_key_head_dim linear_value_head_dim global_head_dim query_pre_attn_scalar "
        "swa_head_dim swa_v_head_dim",
    ),
    (8, "qk_rope_head_dim qk_nope_head_dim rotary_dim time_step_rank mamba_dt_rank laurel_rank patch_size"),
    (
        4,
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
        "num_local_experts n_routed_experts moe_num_experts num_moe_experts index_n_heads linear_num_value_heads "
        "swa_num_attention_heads",
    ),
    (
        2,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_key_value_heads kv_n_heads "
        "num_kv_heads num_experts_per_tok num_experts_per_token moe_top_k moe_k top_k n_head_kv altup_num_inputs "
        "linear_num_key_heads num_global_key_value_heads swa_num_key_value_heads first_k_dense_replace_ num_swa_layers",
    ),
    (
        1,
        "n_group topk_group n_shared_experts bos_token_id first_k_dense_replace mamba_n_groups n_groups mamba_ngroups "
        "num_nextn_predict_layers_ num_shared_experts moe_num_shared_experts",
    ),
)
SMALL = {name: number for number, names in SIZES for name in names.split()}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
RANGE = {"initializer_range": 0.1, "init_std": 0.1}
SECTIONS = {"text_config": {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}}}
LATENT = {"head_dim": 8, "num_key_value_heads": 4}  # of MLA: the rotated part's
HYBRID = {"mamba_n_heads": 8, "mamba_d_head": 16}  # mamba_expand 2 x WIDTH
GLM_VISION: dict[str, Any] = {
    "text_config": {
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
        }
    },
    "vision_config": {"out_hidden_size": WIDTH, "depth": 2, "hidden_size": WIDTH},
}
MORE: dict[str, dict[str, Any]] = {  # what a type needs beside, since its configuration wants numbers that agree
    "bamba": {**HYBRID, "attn_layer_indices": [1]},
    "granitemoehybrid": {**HYBRID, "layer_types": ["mamba", "attention"]},
    "qwen2_5_vl": SECTIONS,
    "qwen2_vl": {**SECTIONS, "vision_config": {"embed_dim": 32, "depth": 2, "hidden_size": WIDTH, "num_heads": 4}},
    "mamba2": {"num_heads": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "falcon_h1": HYBRID,
    "glm_moe_dsa": {"num_key_value_heads": 4},
    "deepseek_v32": {"num_key_value_heads": 4},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"],
        "n_mamba_heads": 8,
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 32,
    },
    "longcat_flash": {"head_dim": 8, "num_key_value_heads": 4, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 32},
    "youtu": LATENT,
    "deepseek_v3": LATENT,
    "axk1": LATENT,
    "axk2": LATENT,
    "kimi_k25": {"text_config": LATENT},
    "mistral_large4": {"text_config": LATENT},
    "qwen2_5_omni_thinker": SECTIONS,
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_size": [3, 4]},
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [32, 32],
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 4], "rope_theta": 1e4},
        },
    },
    **dict.fromkeys(("glm4v", "glm46v", "glm4v_moe"), GLM_VISION),
    "glm_ocr": {**SECTIONS, "vision_config": GLM_VISION["vision_config"]},
    "hy_v4_vl": {
        "text_config": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}}
    },
    "hunyuan_vl": {
        "text_config": {
            "rope_parameters": {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 1e4, "xdrope_section": [2] * 4}
        },
    },
    "dots3_note_text": LATENT,
    "zaya": {"num_experts_per_tok": 1},
    "granite_docling": {"vision_config": {"out_hidden_size": WIDTH}},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "intermediate_size": [128] * 4,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
}


def names() -> list[str]:
    """The types of model that transformers has as causal language models, or as those of pictures and words."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def config_of(kind: str) -> PretrainedConfig:
    """The type's configuration made small."""
    return _small(CONFIG_MAPPING[kind], MORE.get(kind, {}))


def _small(made: Any, more: dict[str, Any]) -> Any:
    known = {**made().to_dict(), **dict.fromkeys(inspect.signature(made.__init__).parameters)}
    parts = getattr(made, "sub_configs", None) or {}
    asked: dict[str, Any] = {}
    aliases = getattr(made, "attribute_map", {})
    for name, number in {**SMALL, **SPECIAL, **RANGE}.items():
        if name in known and aliases.get(name, name) not in asked:
            asked[aliases.get(name, name)] = number
    default = made()
    for name in parts:
        inner = getattr(default, name, None)
        if isinstance(inner, PretrainedConfig):
            asked[name] = _small(type(inner), more.get(name, {})).to_dict()
    return made(**{**asked, **{name: one for name, one in more.items() if name not in parts}})


def build(kind: str) -> Any:
    """A model of the type, random and small, the same each time."""
    config = config_of(kind)
    auto: Any = AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    with torch.device("meta"):
        numbers = sum(weight.numel() for weight in auto.from_config(config).parameters())
    if numbers > MOST:
        raise ValueError(f"{kind} has {numbers / 1e6:.0f} M parameters; name what is large in SIZES")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config).eval().requires_grad_(False)


def save(model: Any, folder: Path) -> Path:
    """The model and a tokenizer of its vocabulary, as `save_pretrained` writes them."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """Byte-level BPE, 512 tokens; a text begins with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 16,  # the last ids stand for pictures
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 4, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


TEXT = (
    "The keeper climbed the stairs and lit the lamp before the storm came in, and all night long the ships out there "
    "counted the turns of its light, as they had done every winter since the harbour was built."
)
