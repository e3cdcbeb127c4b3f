"""What it takes to serve a checkpoint with vLLM: the command, the GPUs, and what vLLM will not take.

As vLLM's documentation (docs.vllm.ai, features/quantization, `latest` and v0.32), llm-compressor's guide "Choosing the
right compression scheme" (0.11), vLLM's compressed-tensors loader and its merged pull requests said in November 2026,
each row with its own (`kernels`); nothing here was run with vLLM.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantcore.export.kernels import Kernel, kernel_for, unfit
from quantcore.export.vllm_cache import CacheRow, cache_flag, cache_problems, cache_row
from quantcore.export.words import strategy
from quantcore.model.layer_names import SERVED_AS_ONE, expert_of
from quantcore.model.mixture import Mixture
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.scheme import Scheme

CHECKED = "vLLM documentation and loader, November 2026"
WAY_OUT = (
    "; it has some for int4 and int8 weights alone, W8A8, W4AFP8, FP8_DYNAMIC, FP8, FP8_BLOCK, NVFP4, MXFP4, MXFP8"
)


@dataclass(frozen=True)
class Serving:
    """command: for a shell. gpus: one sentence for each kind of layer. problems: why vLLM would refuse; empty: it
    should not. source: what this was read in. mixture: what a token passes, where there are experts."""

    command: str
    gpus: tuple[str, ...]
    problems: tuple[str, ...]
    source: str = CHECKED
    mixture: str | None = None


def serving(
    folder: str,
    schemes: Mapping[str, Scheme],
    context: int | None,
    experts: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, int]] | None = None,
    fused: Sequence[str] = (),
    kv: CacheSpec | None = None,
    mixture: Mixture | None = None,
) -> Serving:
    """How vLLM serves a checkpoint in `folder` whose quantized layers have these schemes, by name.

    experts   the names of those modules that hold a mixture's experts
    shapes    (out, in) of the layers, on which some kernels depend
    fused     those of `experts` that the hub's files keep in one tensor
    kv        what the cache holds; None: floats
    mixture   what of the model a token passes; None where it has no experts, or does not say so"""
    inside: dict[str, list[Scheme]] = {place: [] for place in experts}
    kinds: dict[tuple[Scheme, bool], list[str]] = {}  # of Linears, of experts
    for name, scheme in schemes.items():
        place = expert_of(name)
        expert = place is not None and place[0] in inside
        kinds.setdefault((scheme, expert), []).append(name)
        if place is not None and expert:
            inside[place[0]].append(scheme)
    problems, rows = list[str](), list[Kernel | CacheRow]()
    for (scheme, expert), names in kinds.items():
        kernel, what = kernel_for(scheme, expert), f"{'experts under ' * expert}{scheme}"
        if kernel is None:
            problems.append(f"vLLM lists no kernel for {what}{WAY_OUT * expert}")
            continue
        why = next(filter(None, (unfit(kernel, scheme, one, (shapes or {}).get(one), expert) for one in names)), None)
        if why is None:
            rows.append(kernel)
        else:
            problems.append(f"vLLM's kernel for {what} {why}")
    found = set(schemes.values())
    if len(found) > 1 and any(scheme.activations is None and _asymmetric_int(scheme) for scheme in found):
        problems.append("vLLM wants asymmetric weights alone packed, which only a checkpoint of one scheme has here")
    if any(_int_beside_activations(scheme) for scheme in found):
        problems.append(
            "vLLM reads integer weights of fewer bits beside quantized activations as packed words, "
            "compressed-tensors 0.20 stores one code a byte; try it before you count on it"
        )
    length = "" if context is None else f" --max-model-len {context}"
    if kv is not None and (row := cache_row(kv)) is not None:
        rows.append(row)
    return Serving(
        command=f"vllm serve {shlex.quote(folder)}{length}{cache_flag(kv)}",
        gpus=tuple(dict.fromkeys(f"{one.gpus} [{one.source}]" for one in rows)),
        problems=(
            *problems,
            *_torn(schemes),
            *_of_experts(inside, fused, bool(schemes)),
            *cache_problems(kv),
        ),
        mixture=None if mixture is None else mixture.words,
    )


def _of_experts(inside: Mapping[str, Sequence[Scheme]], fused: Sequence[str], quantized: bool) -> list[str]:
    """What vLLM takes of a mixture's experts in another way, or maybe not; inside: their schemes, by their place."""
    found = []
    if quantized and any(not those for those in inside.values()):
        found.append(
            "experts that stay float lie in one tensor, as transformers wants them beside codes, and vLLM looks for "
            "them one by one; try it before you count on it"
        )
    if any(inside[place] for place in fused):
        found.append(
            "the hub's files keep these experts in one tensor, this checkpoint has them one by one, and not every "
            "class of vLLM looks for them so; try it before you count on it"
        )
    if any(len(set(those)) > 1 for those in inside.values()):
        found.append("vLLM gives all experts of a block one scheme, and here some have another")
    used = {scheme for those in inside.values() for scheme in those}
    weights = [one.weights for one in used if one.weights is not None]
    if any(one.fmt.bits == 8 and not one.fmt.is_float and not one.symmetric for one in weights):
        found.append("vLLM's fused kernel for experts (Marlin) takes zero points beside 4-bit codes alone")
    if any(one.fmt.name == "fp8_e4m3" and strategy(one) == "tensor" for one in weights):
        found.append("vLLM joins an expert's gate and up, and rounds both once more to the larger of their two scales")
    if any(one.needs_ranges for one in used):
        found.append("vLLM gives all experts of a block one input scale, the largest of theirs")
    return found


def _int_beside_activations(scheme: Scheme) -> bool:
    weights, activations = scheme.weights, scheme.activations
    return bool(weights and activations and not weights.fmt.is_float and weights.fmt.bits < 8)


def _asymmetric_int(scheme: Scheme) -> bool:
    return scheme.weights is not None and not scheme.weights.symmetric


def _torn(schemes: Mapping[str, Scheme]) -> list[str]:
    """Layers that vLLM joins into one, and that have different schemes."""
    found = []
    for together in SERVED_AS_ONE:
        places = {re.sub(rf"\.{together[0]}$", "", name) for name in schemes if name.endswith(f".{together[0]}")}
        places |= {name.removesuffix(f".{part}") for part in together for name in schemes if name.endswith(f".{part}")}
        for place in sorted(places):
            if len({schemes.get(f"{place}.{part}") for part in together}) > 1:
                found.append(f"vLLM joins {', '.join(together)} of {place} and wants one scheme for them")
                break
    return found
