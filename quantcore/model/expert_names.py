"""How the hub calls an expert's Linears: asked of transformers' own table of what it puts together when it loads.

mixtral      experts.*.w1, experts.*.w3 -> experts.gate_up_proj       so w1 is the gate, w3 up, w2 down
qwen3_moe    experts.*.gate_proj, experts.*.up_proj -> ...            gate_proj, up_proj, down_proj
gpt_oss      nothing: the hub's files keep the experts fused          gate_proj, up_proj, down_proj, as others call them
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

Parts = Mapping[str, list[str]]
"""Of a fused module: for each of its parameters the parts of an expert that lie in it, in their order."""
USUAL = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
ONE_EXPERT = re.compile(r"\*\.(\w+)\.weight$")


def expert_names(model: nn.Module, fused: Mapping[str, Parts]) -> dict[str, dict[str, str]]:
    """For each module of fused experts, by its name in the model, what its parts ("gate", "up", "down") are called."""
    rules = _splits(model)
    return {name: {**USUAL, **_named(name, parts, rules)} for name, parts in fused.items()}


def kept_apart(model: nn.Module, name: str, parts: Parts) -> bool:
    """Whether the hub's files keep the experts of a module apart, so that transformers reads them one by one."""
    return set(_named(name, parts, _splits(model))) == {part for inside in parts.values() for part in inside}


def _named(name: str, fused: Parts, rules: list[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for parameter, parts in fused.items():
        for rule in rules:
            _, matched = rule.rename_source_key(f"{name}.{parameter}")
            ends = [ONE_EXPERT.search(target) for target in rule.target_patterns] if matched is not None else []
            if len(ends) == len(parts) and all(ends):
                found |= {part: end[1] for part, end in zip(parts, ends, strict=True) if end}
                break
    return found


def _splits(model: nn.Module) -> list[Any]:
    """transformers' rules for writing a fused parameter as one tensor an expert."""
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import SplitModulelist, WeightConverter

    if not isinstance(model, PreTrainedModel):
        return []
    rules = [one for one in get_model_conversion_mapping(model, add_legacy=False) if isinstance(one, WeightConverter)]
    back = [one.reverse_transform() for one in rules[::-1]]
    return [one for one in back if any(isinstance(step, SplitModulelist) for step in one.operations)]
