"""What of a model has to be held and moved to serve it: its matrices, and the numbers that a token leaves in the cache.

    shape = served_shape("Llama-3.1-8B", model)      a model, on the meta device too
    shape.cache_numbers(8192)                        numbers that a sequence of 8192 tokens keeps

What each block keeps: `model.token_cache`. Experts of one block lie in one parameter of three dimensions; each is a
matrix here, of which a token passes the chosen ones alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from quantcore.model.inventory import EXPERTS
from quantcore.model.linears import block_names, every_linear
from quantcore.model.mixture import chosen_of, experts_of
from quantcore.model.token_cache import Cache, caches_of

OTHER_SENSES = re.compile(r"\b(vision|visual|audio|image|video)\w*")  # parts that text does not pass


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
    caches = caches_of(name, model)
    return ServedShape(
        name,
        len(names),
        int(config.hidden_size),
        int(config.vocab_size),
        getattr(config, "max_position_embeddings", None),
        matrices,
        sum(one.numel() for one in every.values()) - counted,
        caches,
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


def _query_width(block: str, model: nn.Module, config: Any) -> int:
    inner = {
        key.rpartition(".")[2]: layer.in_features for key, layer in every_linear(model.get_submodule(block)).items()
    }
    found = next((inner[one] for one in ("o_proj", "out_proj", "c_proj", "dense") if one in inner), None)
    return found or int(config.hidden_size)
