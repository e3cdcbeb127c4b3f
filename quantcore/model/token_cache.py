"""What a model's blocks keep of the tokens that were read, by its configuration and its Linears.

    caches = caches_of("Llama-3.1-8B", model)        one a block, on the meta device too

    attention         a block keeps a token's keys and values: k_proj's rows and v_proj's, or a fused Linear's but for
                      the queries'
    sliding, chunked  the same, of so many tokens at most
    latent (MLA)      kv_lora_rank + qk_rope_head_dim numbers a token, and a sparse indexer's key where there is one
    linear, Mamba     a state a sequence, whatever its length

What the configuration does not tell is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from quantcore.model.linears import block_names, every_linear

FUSED = ("qkv_proj", "c_attn", "query_key_value", "Wqkv")  # queries, keys and values of one Linear
OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")  # whose input is as wide as the queries
FIXED = ("linear_attn", "mixer.in_proj")


@dataclass(frozen=True)
class Cache:
    """What a block keeps: `numbers` a token, of at most `window` tokens; or a `state` of so many numbers a sequence."""

    numbers: int
    window: int | None = None
    state: int = 0


def caches_of(name: str, model: nn.Module) -> tuple[Cache, ...]:
    """Of every block of a causal language model.

    Raises: ValueError where its configuration does not say what a token leaves behind."""
    whole: Any = model.config
    config = whole.get_text_config()
    found = tuple(_cache(place, block, model, config, name) for place, block in enumerate(block_names(model)))
    if not any(one.numbers or one.state for one in found):
        raise ValueError(f"what {name} keeps of a token is not known here ({config.model_type}); name another model")
    return found


def _cache(place: int, block: str, model: nn.Module, config: Any, name: str) -> Cache:
    layers = every_linear(model.get_submodule(block))
    rows = {key: layer.out_features for key, layer in layers.items()}
    ends = {key.rpartition(".")[2]: out for key, out in rows.items()}
    if any(part in f"{key}." for key in rows for part in FIXED):
        return Cache(0, state=_state(config, name))
    if (latent := getattr(config, "kv_lora_rank", None)) and "kv_b_proj" in ends:
        index = int(getattr(config, "index_head_dim", 0) or 0)
        return Cache(int(latent) + int(config.qk_rope_head_dim) + index)
    if "k_proj" in ends:
        return Cache(ends["k_proj"] + ends.get("v_proj", ends["k_proj"]), _window(place, config))
    for key, out in rows.items():
        around, dot, last = key.rpartition(".")
        if last in FUSED:
            beside = (layers.get(f"{around}{dot}{one}") for one in OUTPUTS)
            queries = next((one.in_features for one in beside if one is not None), int(config.hidden_size))
            return Cache(out - queries, _window(place, config))
    return Cache(0)  # a block of an MLP alone


def _window(place: int, config: Any) -> int | None:
    kinds = getattr(config, "layer_types", None)
    if kinds and "chunked" in kinds[place]:
        return int(config.attention_chunk_size)
    if kinds:
        return int(config.sliding_window) if "sliding" in kinds[place] else None
    sliding = getattr(config, "sliding_window", None)
    return int(sliding) if sliding and getattr(config, "use_sliding_window", True) else None


def _state(config: Any, name: str) -> int:
    """Numbers of a linear-attention or Mamba block's state and of the inputs that its convolution looks back on."""
    if hasattr(config, "linear_num_value_heads"):
        keys = config.linear_num_key_heads * config.linear_key_head_dim
        values = config.linear_num_value_heads * config.linear_value_head_dim
        return int(values * config.linear_key_head_dim + (2 * keys + values) * (config.linear_conv_kernel_dim - 1))
    if hasattr(config, "mamba_num_heads"):
        inner = config.mamba_num_heads * config.mamba_head_dim
        width = inner + 2 * config.n_groups * config.ssm_state_size
        return int(inner * config.ssm_state_size + width * (config.conv_kernel - 1))
    raise ValueError(f"{name} keeps a state whose size is not known here; name another model")
