"""What of a model has to be held and moved to serve it: its matrices, and the numbers that a token leaves in the cache.

    shape = served_shape("Llama-3.1-8B", model)      a model, on the meta device too
    shape.cache_numbers(8192)                        numbers that a sequence of 8192 tokens keeps

    attention         a block keeps a token's keys and values: k_proj's rows and v_proj's
    sliding, chunked  the same, of so many tokens at most
    latent (MLA)      kv_lora_rank + qk_rope_head_dim numbers a token, and a sparse indexer's key where there is one
    linear, Mamba     a state a sequence, whatever its length

What the configuration does not tell is refused, not guessed. Experts of one block lie in one parameter of three
dimensions; each is a matrix here, of which a token passes the chosen ones alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from quantcore.model.config_file import head_dim_of
from quantcore.model.inventory import EXPERTS
from quantcore.model.linears import block_names, every_linear
from quantcore.model.mixture import chosen_of, experts_of

OTHER_SENSES = re.compile(r"\b(vision|visual|audio|image|video)\w*")  # parts that text does not pass
ATTENTION, FIXED = ("k_proj", "qkv_proj", "c_attn", "kv_b_proj", "query_key_value"), ("linear_attn", "mixer.in_proj")


@dataclass(frozen=True)
class Matrix:
    """`count` matrices (out_features, in_features) of one kind; `name`: the first's; `used`: the share of them that a
    token passes, 1 but for experts."""

    name: str
    shape: tuple[int, int]
    count: int
    used: float = 1.0

    @property
    def numbers(self) -> int:
        return self.count * math.prod(self.shape)

    def touched(self, tokens: int) -> float:
        """How many of them at least one of so many tokens passes, if each token's choice is a fair one."""
        return self.count * (1 - (1 - self.used) ** tokens)


@dataclass(frozen=True)
class Cache:
    """What a block keeps: `numbers` a token, of at most `window` tokens; or a `state` of so many numbers a sequence."""

    numbers: int
    window: int | None = None
    state: int = 0


@dataclass(frozen=True)
class ServedShape:
    """matrices      Linears and experts; the head is called lm_head
    others        parameters outside of them: embeddings, norms, routers, what pictures pass
    attended      query width of all attention blocks together, what a pair of tokens is multiplied over
    state_bytes   of a number in a state, which is no key and no value"""

    name: str
    blocks: int
    hidden: int
    vocabulary: int
    context: int | None
    matrices: tuple[Matrix, ...]
    others: int
    caches: tuple[Cache, ...]
    attended: int
    tied: bool
    state_bytes: int = 2

    @cached_property
    def parameters(self) -> int:
        return self.others + sum(one.numbers for one in self.matrices if not (self.tied and one.name == "lm_head"))

    @cached_property
    def active(self) -> int:
        """Parameters of the matrices that one token passes."""
        return round(sum(one.used * one.numbers for one in self.matrices))

    def cache_numbers(self, tokens: int) -> int:
        """Keys and values that a sequence of so many tokens keeps."""
        return sum(one.numbers * min(tokens, one.window or tokens) for one in self.caches)

    @property
    def state_numbers(self) -> int:
        return sum(one.state for one in self.caches)


def served_shape(name: str, model: nn.Module) -> ServedShape:
    """Of any causal language model, loaded or on the meta device.

    Raises: ValueError where its configuration does not say what a token keeps."""
    whole: Any = model.config
    config = whole.get_text_config()
    names = block_names(model)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    matrices = tuple(_matrices(model, config))
    counted = sum(one.numbers for one in matrices if not (tied and one.name == "lm_head"))
    every = {id(one): one for one in model.parameters()}
    caches = [_cache(place, block, model, config, name) for place, block in enumerate(names)]
    if not any(one.numbers or one.state for one in caches):
        raise ValueError(f"what {name} keeps of a token is not known here ({config.model_type}); name another model")
    return ServedShape(
        name,
        len(names),
        int(config.hidden_size),
        int(config.vocab_size),
        getattr(config, "max_position_embeddings", None),
        matrices,
        sum(one.numel() for one in every.values()) - counted,
        tuple(caches),
        sum(_query_width(block, model, config) for block, one in zip(names, caches, strict=True) if one.numbers),
        tied,
        4 if "float32" in (getattr(config, "mamba_ssm_dtype", ""), getattr(config, "mamba_ssm_cache_dtype", "")) else 2,
    )


def _matrices(model: nn.Module, config: Any) -> Iterator[Matrix]:
    """Matrices of one kind (the module's name without its block's number, and the shape) together."""
    kinds: dict[tuple[str, tuple[int, int]], list[Any]] = {}
    for name, shape, count, used in _each(model, config):
        kind = re.sub(r"\b\d+\b", "", name), shape
        found = kinds.setdefault(kind, [name, 0, used])
        found[1] += count
    for (_, shape), (name, count, used) in kinds.items():
        yield Matrix(name, shape, count, used)


def _each(model: nn.Module, config: Any) -> Iterator[tuple[str, tuple[int, int], int, float]]:
    hidden = int(config.hidden_size)
    for name, layer in every_linear(model).items():
        if OTHER_SENSES.search(name):
            continue
        several = re.search(r"\bexperts\.\d+\.", name)
        used = chosen_of(config) / experts_of(config) if several else 1.0
        yield name, (layer.out_features, layer.in_features), 1, used
    for name, one in model.named_parameters():
        if one.ndim == 3 and EXPERTS.search(name) and not OTHER_SENSES.search(name):
            experts, first, second = one.shape
            other = second if first == hidden else first
            shape = (hidden, other) if "down" in name else (other, hidden)
            if hidden not in (first, second):  # latent experts: as they lie
                shape = (first, second)
            yield name, (int(shape[0]), int(shape[1])), int(experts), chosen_of(config) / int(experts)


def _cache(place: int, block: str, model: nn.Module, config: Any, name: str) -> Cache:
    rows = _rows(model.get_submodule(block))
    ends = {key.rpartition(".")[2]: out for key, out in rows.items()}
    if any(part in f"{key}." for key in rows for part in FIXED):
        return Cache(0, state=_state(config, name))
    if (latent := getattr(config, "kv_lora_rank", None)) and "kv_b_proj" in ends:
        index = int(getattr(config, "index_head_dim", 0) or 0)
        return Cache(int(latent) + int(config.qk_rope_head_dim) + index)
    if "k_proj" in ends:
        return Cache(ends["k_proj"] + ends.get("v_proj", ends["k_proj"]), _window(place, config))
    if any(one in ends for one in ATTENTION):
        kept = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        return Cache(2 * kept * head_dim_of(config), _window(place, config))
    return Cache(0)  # a block of an MLP alone


def _rows(block: nn.Module) -> dict[str, int]:
    return {key: layer.out_features for key, layer in every_linear(block).items()}


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


def _query_width(block: str, model: nn.Module, config: Any) -> int:
    inner = {
        key.rpartition(".")[2]: layer.in_features for key, layer in every_linear(model.get_submodule(block)).items()
    }
    found = next((inner[one] for one in ("o_proj", "out_proj", "c_proj", "dense") if one in inner), None)
    return found or int(config.hidden_size)
