"""What it takes to serve a checkpoint with vLLM: the command, the GPUs, and what vLLM will not take.

As vLLM's documentation and its compressed-tensors loader said in November 2026; nothing here was run with vLLM. NVIDIA
GPUs are named by compute capability: 7.5 Turing (T4), 8.0 Ampere (A100), 8.6 (RTX 30), 8.9 Ada (L4, RTX 40),
9.0 Hopper (H100, H200), 10 and above Blackwell (B200, RTX 50).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from quantcore.numbers.granularity import PerBlock, PerChannel, PerGroup, PerTensor, PerToken
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme

CHECKED = "vLLM documentation and loader, November 2026"
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class Serving:
    """command: for a shell. gpus: one sentence for each kind of layer. problems: why vLLM would refuse; empty: it
    should not. source: what this was read in."""

    command: str
    gpus: tuple[str, ...]
    problems: tuple[str, ...]
    source: str = CHECKED


def serving(folder: str, schemes: Mapping[str, Scheme], context: int) -> Serving:
    """How vLLM serves a checkpoint in `folder` whose quantized layers have these schemes, by name."""
    found = {scheme: _gpus(scheme) for scheme in schemes.values()}
    problems = [f"vLLM lists no kernel for {scheme}" for scheme, gpus in found.items() if gpus is None]
    if len(found) > 1 and any(scheme.activations is None and _asymmetric_int(scheme) for scheme in found):
        problems.append("vLLM wants asymmetric weights alone packed, which only a checkpoint of one scheme has here")
    if any(_int_by_fp8(scheme) for scheme in found):
        problems.append(
            "vLLM has read integer weights with fp8 activations as packed words, compressed-tensors 0.20 stores one "
            "code a byte; try it before you count on it"
        )
    return Serving(
        command=f"vllm serve {shlex.quote(folder)} --max-model-len {context}",
        gpus=tuple(dict.fromkeys(gpus for gpus in found.values() if gpus is not None)),
        problems=(*problems, *_torn(schemes)),
    )


def _gpus(scheme: Scheme) -> str | None:
    """Where vLLM has a kernel for the scheme; None where it lists none."""
    weights, activations = scheme.weights, scheme.activations
    if weights is None:
        return None
    if weights.fmt.is_float:
        return _gpus_for_fp8(weights, activations)
    if activations is None:
        fits = weights.fmt.bits in (4, 8) and isinstance(weights.granularity, PerGroup | PerChannel)
        return f"int{weights.fmt.bits} weights alone: NVIDIA 8.0 and above" if fits else None
    if not weights.symmetric:
        return None
    if weights.fmt.bits == 8 and activations.fmt.name == "int8" and _per_token_or_static(activations):
        rows = isinstance(weights.granularity, PerChannel | PerTensor)
        return "int8 on both sides: NVIDIA 7.5 to 9.0 (not Blackwell), x86 and Arm CPUs" if rows else None
    if weights.fmt.bits == 4 and activations.dynamic and isinstance(activations.granularity, PerToken):
        if activations.fmt.name == "int8" and isinstance(weights.granularity, PerGroup | PerChannel):
            return "int4 weights, int8 activations: Arm CPUs"
        if activations.fmt.name == "fp8_e4m3" and isinstance(weights.granularity, PerGroup):
            return "int4 weights, fp8 activations: NVIDIA 9.0 (Hopper)"
    return None


def _int_by_fp8(scheme: Scheme) -> bool:
    weights, activations = scheme.weights, scheme.activations
    return bool(weights and activations and not weights.fmt.is_float and activations.fmt.is_float)


def _asymmetric_int(scheme: Scheme) -> bool:
    return scheme.weights is not None and not scheme.weights.symmetric


def _gpus_for_fp8(weights: QuantSpec, activations: QuantSpec | None) -> str | None:
    if not isinstance(weights.granularity, PerTensor | PerChannel | PerBlock):
        return None
    if activations is None:
        return "fp8 weights alone: NVIDIA 8.0 and above"
    if not activations.fmt.is_float:
        return None
    return "fp8 on both sides: NVIDIA 8.9 and above, AMD MI300; on NVIDIA 8.0 to 8.6 the activations stay 16-bit"


def _per_token_or_static(activations: QuantSpec) -> bool:
    return isinstance(activations.granularity, PerToken) if activations.dynamic else True


def _torn(schemes: Mapping[str, Scheme]) -> list[str]:
    """Layers that vLLM joins into one, and that have different schemes."""
    found = []
    for together in FUSED:
        places = {re.sub(rf"\.{together[0]}$", "", name) for name in schemes if name.endswith(f".{together[0]}")}
        places |= {name.removesuffix(f".{part}") for part in together for name in schemes if name.endswith(f".{part}")}
        for place in sorted(places):
            if len({schemes.get(f"{place}.{part}") for part in together}) > 1:
                found.append(f"vLLM joins {', '.join(together)} of {place} and wants one scheme for them")
                break
    return found
