"""What of a mixture one token passes: the experts that its router chooses, and all that is no expert.

    mixture_of(model)        Mixture(chosen=8, experts=128, active=3.0e9, parameters=30.5e9); None without experts

Memory must hold all experts. A token's products, and what a single sequence reads for it, are those of the chosen ones;
of many tokens at once each expert is somebody's choice, so a large batch reads them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcore.model.layer_names import expert_of
from quantcore.model.linears import linear_shapes

CHOSEN = ("num_experts_per_tok", "top_k_experts", "experts_per_token", "moe_top_k", "moe_topk")
EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
SECTIONS = ("ffn_config",)  # of a configuration that says it there (DBRX)


@dataclass(frozen=True)
class Mixture:
    """chosen, experts       how many experts of a block a token passes, and of how many
    active, parameters   numbers that it passes, on average over a block's experts, the table of embeddings aside, and
                         all numbers"""

    chosen: int
    experts: int
    active: int
    parameters: int

    @property
    def words(self) -> str:
        """In a sentence, without its full stop."""
        return (
            f"a token passes {self.chosen} of {self.experts} experts a block, {_count(self.active)} of "
            f"{_count(self.parameters)} parameters: a single sequence's time goes by the former, a large batch touches "
            "every expert, and memory must hold all of them"
        )


def mixture_of(model: Any) -> Mixture | None:
    """Of a model with experts. Raises: ValueError where its configuration does not say how many a token passes."""
    shapes = linear_shapes(model)
    if not any(map(expert_of, shapes)):
        return None
    config = model.config.get_text_config()
    chosen, experts = chosen_of(config), experts_of(config)
    parameters = sum(one.numel() for one in model.parameters())
    table = model.get_input_embeddings().weight
    passed = parameters - idle_numbers(shapes, chosen, experts)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return Mixture(chosen, experts, passed - (0 if tied else table.numel()), parameters)


def known_mixture(model: Any) -> Mixture | None:
    """`mixture_of`; None, too, where the configuration does not say."""
    try:
        return mixture_of(model)
    except ValueError:
        return None


def idle_numbers(shapes: Mapping[str, tuple[int, int]], chosen: int, experts: int) -> int:
    """Numbers of the experts' Linears, of shape (out, in) by name, that a token does not pass."""
    inside = sum(math.prod(shape) for name, shape in shapes.items() if expert_of(name))
    return round(inside * (1 - chosen / experts))


def chosen_of(config: Any) -> int:
    """How many experts a token passes. Raises: ValueError for a configuration that does not say so."""
    return _said(config, CHOSEN, "experts a token passes")


def experts_of(config: Any) -> int:
    """How many experts a block has to choose from. Raises: ValueError for a configuration that does not say so."""
    return _said(config, EXPERTS, "experts a block has")


def _said(config: Any, names: tuple[str, ...], what: str) -> int:
    """A number, or the first of several (one a block)."""
    places = [config, *(getattr(config, name) for name in SECTIONS if hasattr(config, name))]
    found = next((one for place in places for name in names if (one := getattr(place, name, None))), None)
    if found is None:
        raise ValueError(f"a {config.model_type} does not say how many {what}; name another model")
    return int(found[0] if isinstance(found, list | tuple) else found)


def _count(numbers: int) -> str:
    return f"{numbers / 1e9:.3g} B" if numbers >= 1e9 else f"{numbers / 1e6:.3g} M"
