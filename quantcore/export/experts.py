"""Experts in a checkpoint: in which form others read them, and what nobody reads.

    quantized   an expert's tensors by themselves, under the hub's names: `experts.5.gate_proj.weight_packed`
    float       put together again as transformers keeps them: beside codes it looks for no other form

As transformers 5.24 reads compressed-tensors: it dequantizes experts while it loads them, one scheme for all experts of
a model, so their inputs are not rounded there; packed symmetric integers and fp8 with a scale a channel or a tensor. A
module of experts that it replaces by Linears (Llama 4's) is read as Linears are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from quantcore.export.words import PACKED, strategy
from quantcore.matmul.layers import QuantLinear
from quantcore.model.expert_names import kept_apart
from quantcore.model.experts import Experts
from quantcore.scheme.scheme import Scheme

READABLE_FP8 = ("tensor", "channel")


def experts_in(model: nn.Module) -> dict[str, Experts]:
    """The modules of experts of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Experts)}


def fused_on_the_hub(model: nn.Module) -> list[str]:
    """Those modules of experts whose parameters the hub's files keep in one tensor each."""
    return [place for place, one in experts_in(model).items() if not kept_apart(model, place, one.layout.parts)]


def read_as_linears(experts: Experts) -> bool:
    """Whether transformers puts Linears in the place of this kind of experts where a checkpoint is quantized."""
    from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION as PATCHED

    methods = PATCHED.get(experts.kind, {}).get("quantization_methods", [])
    return any(getattr(one, "value", one) == "compressed-tensors" for one in methods)


def require_readable(model: nn.Module, schemes: Mapping[str, Scheme], layouts: Mapping[str, str]) -> None:
    """Raises: ValueError for quantized experts that transformers could not read, before any work is done."""
    used: dict[Scheme, str] = {}
    for place, experts in experts_in(model).items():
        names = experts.layers(place)
        mine = {schemes[name]: name for name in names if name in schemes}
        if not mine or read_as_linears(experts):
            continue
        if not kept_apart(model, place, experts.layout.parts):
            raise ValueError(
                f"the hub's files keep the experts of {place!r} in one tensor, where transformers reads no codes; "
                "export with skip=experts, or for vLLM --reader vllm"
            )
        if len(mine) > 1 or sum(name in schemes for name in names) < len(names):
            raise ValueError(
                f"transformers reads one scheme for all experts, and those of {place!r} have {_several(mine, names)}; "
                "give them one, or skip=experts"
            )
        used |= mine
        for scheme, name in mine.items():
            if (reason := _why_not(scheme, layouts[name])) is not None:
                raise ValueError(f"transformers does not read experts with {reason}")
    if len(used) > 1:
        raise ValueError(
            f"transformers reads one scheme for all experts, and these have {' and '.join(map(str, list(used)[:2]))}; "
            "give them one, or skip=experts"
        )


def _several(mine: Collection[Scheme], names: Collection[str]) -> str:
    return f"{len(mine)} schemes" if len(mine) > 1 else f"one for some of their {len(names)} layers"


def _why_not(scheme: Scheme, form: str) -> str | None:
    weights = scheme.weights
    assert weights is not None
    if weights.fmt.is_float:
        if strategy(weights) not in READABLE_FP8:
            return f"a scale for each {weights.granularity} in fp8; write @experts=w:fp8_e4m3/channel behind the scheme"
        return None
    narrow = f"w:{weights.fmt.name}/{weights.granularity}"
    if not weights.symmetric:
        return f"zero points; write @experts={narrow} behind the scheme"
    if form != PACKED:
        return (
            f"integer weights and rounded inputs ({form}); write @experts={narrow} behind the scheme, or for vLLM "
            "--reader vllm"
        )
    return None


def patterns(model: nn.Module, names: Collection[str], hub: Mapping[str, str]) -> list[str]:
    """Layers as targets of compressed-tensors: a block's experts in one pattern where all of them are among `names`.
    Where the `hub` has another name, both stand there: some readers go by the one, some by the other."""
    rest = dict.fromkeys(names)
    found: list[str] = []
    for place, experts in experts_in(model).items():
        own = experts.layers(place)
        if all(one in rest for one in own):
            parts = "|".join(experts.names.values())
            there = hub.get(own[0], own[0]).rsplit(".", 2)[0]
            found += [rf"re:{re.escape(one)}\.\d+\.({parts})$" for one in dict.fromkeys((place, there))]
            for one in own:
                del rest[one]
    return [*rest, *(hub[one] for one in rest if one in hub), *found]


def put_together(experts: Experts) -> dict[str, Tensor] | None:
    """The parameters of float experts as transformers keeps them; None where they are quantized."""
    own = {name: part for name, part in experts.named_modules() if isinstance(part, (nn.Linear, QuantLinear))}
    if any(isinstance(part, QuantLinear) for part in own.values()):
        return None
    made: dict[str, Tensor] = {}
    for name, cut in experts.slices().items():
        held = cast(Tensor, experts.get_parameter(name)).detach()
        whole = made.setdefault(cut.fused, torch.empty(experts.shapes[cut.fused], dtype=held.dtype, device=held.device))
        cut.of(whole, whole.shape).copy_(held)
    return made
