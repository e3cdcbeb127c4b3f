"""What it takes to serve a checkpoint with vLLM: the command, the GPUs, and what vLLM will not take.

As vLLM's documentation (docs.vllm.ai, features/quantization, `latest` and v0.32), llm-compressor's guide "Choosing the
right compression scheme" (0.11), vLLM's compressed-tensors loader and its merged pull requests said in November 2026,
each row with its own; nothing here was run with vLLM. NVIDIA GPUs are named by compute capability: 7.5 Turing (T4), 8.0
Ampere (A100), 8.6 (RTX 30), 8.9 Ada (L4, RTX 40), 9.0 Hopper (H100, H200), 10 and above Blackwell (B200, RTX 50).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from quantcore.export.serving_cache import cache_flag, cache_problems, cache_row
from quantcore.export.words import strategy, whole
from quantcore.numbers.granularity import PerGroup
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.scheme import Scheme

CHECKED = "vLLM documentation and loader, November 2026"
FP8_WEIGHTS = "fp8_e4m3/tensor fp8_e4m3/channel fp8_e4m3/block"
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
AMD, CPU = "AMD", "CPU"
Place = tuple[int, int] | str
"""NVIDIA's compute capability, AMD (an MI300), or CPU (x86)."""


class Kernel(NamedTuple):
    """Which weights, format/strategy, vLLM multiplies by which inputs, format/strategy/range, and on which GPUs: in
    words, with the source and its date, from which compute capability to which, and where else. Coded scales stand
    behind the strategy. Below `codes_from` the codes are only stored: the inputs stay 16-bit. `marlin`: whether groups
    and shapes must be Marlin's."""

    weights: str
    inputs: str
    gpus: str
    source: str
    least: tuple[int, int] = (99, 0)  # none
    most: tuple[int, int] = (99, 0)
    codes_from: tuple[int, int] = (0, 0)
    elsewhere: tuple[str, ...] = ()
    marlin: bool = False

    def runs_on(self, place: Place) -> bool:
        return place in self.elsewhere if isinstance(place, str) else self.least <= place <= self.most


MARLIN_GROUPS = (32, 64, 128)
MARLIN_INPUTS, MARLIN_OUTPUTS = 128, 64  # in_features and out_features are multiples of these
INTS = tuple(range(2, 9))
ODD_INTS = " ".join(f"int{bits}/{grain}" for bits in INTS if bits not in (4, 8) for grain in ("group", "channel"))
LOW_INTS = " ".join(f"int{bits}/{grain}" for bits in INTS if bits < 8 for grain in ("group", "channel"))
LOADER = "vLLM's compressed-tensors loader, 2026, and llm-compressor 0.11's table of schemes"
FROM_BLACKWELL = (
    "NVIDIA 10.0 and above (Blackwell); on 7.5 to 9.0, Hopper among them, no tensor core takes these codes and the "
    "activations stay 16-bit"
)
KERNELS = (
    Kernel(
        "int4/group int4/channel int8/group int8/channel",
        "float",
        "4- and 8-bit integer weights alone: NVIDIA 7.5 and above (Marlin; on 7.5 with fp16)",
        "vLLM pull request 29901, December 2025",
        (7, 5),
        marlin=True,
    ),
    Kernel(
        ODD_INTS,
        "float",
        "2-, 3-, 5-, 6- and 7-bit integer weights alone: NVIDIA 7.5 and above (Humming; with bf16 from 8.0 on)",
        "vLLM pull request 46389, June 2026; Humming's support matrix",
        (7, 5),
    ),
    Kernel(
        "int8/channel int8/tensor",
        "int8/token/dynamic int8/tensor/static",
        "int8 on both sides: NVIDIA 7.5 to 9.0 (not Blackwell), x86 and Arm CPUs",
        "vLLM documentation, November 2026",
        (7, 5),
        (9, 0),
        elsewhere=(CPU,),
    ),
    Kernel(
        LOW_INTS,
        "int8/token/dynamic int8/group/dynamic int4/token/dynamic int4/group/dynamic",
        "2- to 7-bit integer weights, int8 or int4 activations: NVIDIA 7.5 and above (Humming, "
        "compressed_tensors_wNa8); int4 by int8 also on Arm CPUs",
        "vLLM pull request 46390, June 2026",
        (7, 5),
    ),
    Kernel(
        "int4/group",
        "fp8_e4m3/token/dynamic",
        "int4 weights, fp8 activations: NVIDIA 9.0 (Hopper)",
        "vLLM documentation, November 2026",
        (9, 0),
        (9, 0),
    ),
    Kernel(
        FP8_WEIGHTS,
        "float",
        "fp8 weights alone: NVIDIA 7.5 and above (Marlin)",
        "vLLM 0.32 documentation and pull request 33076, January 2026",
        (7, 5),
    ),
    Kernel(
        FP8_WEIGHTS,
        "fp8_e4m3/token/dynamic fp8_e4m3/group/dynamic fp8_e4m3/tensor/dynamic fp8_e4m3/tensor/static",
        "fp8 on both sides: NVIDIA 8.9 and above, AMD MI300; on NVIDIA 7.5 to 8.6 the activations stay 16-bit",
        "vLLM 0.32 documentation",
        (7, 5),
        codes_from=(8, 9),
        elsewhere=(AMD,),
    ),
    Kernel(
        "fp4_e2m1/tensor_group/e4m3",
        "float",
        "NVFP4 weights alone: NVIDIA 7.5 and above (Marlin)",
        LOADER,
        (7, 5),
    ),
    Kernel(
        "fp4_e2m1/tensor_group/e4m3",
        "fp4_e2m1/tensor_group/e4m3/local",
        f"NVFP4 on both sides: {FROM_BLACKWELL}",
        LOADER,
        (7, 5),
        codes_from=(10, 0),
    ),
    Kernel(
        "fp4_e2m1/group/e8m0",
        "float fp4_e2m1/group/e8m0/dynamic",
        f"MXFP4, for vLLM with rounded inputs even where the checkpoint says float: {FROM_BLACKWELL}",
        LOADER,
        (7, 5),
        codes_from=(10, 0),
    ),
    Kernel(
        "fp8_e4m3/group/e8m0",
        "float fp8_e4m3/group/e8m0/dynamic",
        f"MXFP8, for vLLM with rounded inputs even where the checkpoint says float: {FROM_BLACKWELL}",
        LOADER,
        (7, 5),
        codes_from=(10, 0),
    ),
)


@dataclass(frozen=True)
class Serving:
    """command: for a shell. gpus: one sentence for each kind of layer. problems: why vLLM would refuse; empty: it
    should not. source: what this was read in."""

    command: str
    gpus: tuple[str, ...]
    problems: tuple[str, ...]
    source: str = CHECKED


def serving(
    folder: str,
    schemes: Mapping[str, Scheme],
    context: int | None,
    experts: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, int]] | None = None,
    fused: Sequence[str] = (),
    kv: CacheSpec | None = None,
) -> Serving:
    """How vLLM serves a checkpoint in `folder` whose quantized layers have these schemes, by name.

    experts   the names of those modules that hold a mixture's experts
    shapes    (out, in) of the layers, on which some kernels depend
    fused     those of `experts` that the hub's files keep in one tensor
    kv        what the cache holds; None: floats"""
    kernels = {scheme: kernel_for(scheme) for scheme in schemes.values()}
    problems = [f"vLLM lists no kernel for {scheme}" for scheme, kernel in kernels.items() if kernel is None]
    unfit = {
        scheme: f"vLLM's kernel for {scheme} {why}"
        for name, scheme in schemes.items()
        if (kernel := kernels[scheme]) and (why := _unfit(kernel, scheme, name, (shapes or {}).get(name)))
    }
    problems += unfit.values()
    found = {scheme: None if scheme in unfit else kernel for scheme, kernel in kernels.items()}
    if len(found) > 1 and any(scheme.activations is None and _asymmetric_int(scheme) for scheme in found):
        problems.append("vLLM wants asymmetric weights alone packed, which only a checkpoint of one scheme has here")
    if any(_int_beside_activations(scheme) for scheme in found):
        problems.append(
            "vLLM reads integer weights of fewer bits beside quantized activations as packed words, "
            "compressed-tensors 0.20 stores one code a byte; try it before you count on it"
        )
    length = "" if context is None else f" --max-model-len {context}"
    rows = [*found.values(), cache_row(kv) if kv is not None else None]
    return Serving(
        command=f"vllm serve {shlex.quote(folder)}{length}{cache_flag(kv)}",
        gpus=tuple(dict.fromkeys(f"{one.gpus} [{one.source}]" for one in rows if one is not None)),
        problems=(
            *problems,
            *_torn(schemes),
            *_own_globals(schemes),
            *_of_experts(schemes, experts, fused),
            *cache_problems(kv),
        ),
    )


def _of_experts(schemes: Mapping[str, Scheme], places: Sequence[str], fused: Sequence[str]) -> list[str]:
    """What vLLM will not take of a mixture's experts, or takes in another way."""
    inside = {place: [one for name, one in schemes.items() if name.startswith(f"{place}.")] for place in places}
    found = []
    if schemes and any(not those for those in inside.values()):
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
    if any(one.weights and one.weights.fmt.is_float and one.activations is None for one in used):
        found.append("vLLM lists fp8 experts only with fp8 inputs; write FP8_DYNAMIC for them")
    if any(one.needs_ranges for one in used):
        found.append("vLLM gives all experts of a block one input scale, the largest of theirs")
    return found


def kernel_for(scheme: Scheme) -> Kernel | None:
    """The kernel that vLLM has for the scheme; None where it lists none."""
    weights, inputs = scheme.weights, scheme.activations
    if weights is None or (inputs is not None and not weights.symmetric):
        return None
    here, when = _kind(weights), "float"
    if inputs is not None:
        when = f"{_kind(inputs)}/{'local' if inputs.local else 'static' if inputs.static else 'dynamic'}"
    return next((one for one in KERNELS if here in one.weights.split() and when in one.inputs.split()), None)


def _kind(spec: QuantSpec) -> str:
    """Format, strategy, and how scales are coded where they are."""
    return "/".join([whole(spec.fmt), strategy(spec), *([spec.scales.name] if spec.scales.is_coded else [])])


def why_not_on(scheme: Scheme, place: Place) -> str | None:
    """Why vLLM would not run a scheme at a place; None where it should. What stays float runs everywhere."""
    if scheme.is_float:
        return None
    kernel = kernel_for(scheme)
    if kernel is None:
        return f"vLLM lists no kernel for {scheme.label}"
    if not kernel.runs_on(place):
        return f"vLLM has no kernel for it here ({kernel.gpus})"
    why = _unfit(kernel, scheme)
    return None if why is None else f"vLLM's kernel for {scheme.label} {why}"


def stays_16_bit(scheme: Scheme, place: Place) -> bool:
    """Whether vLLM only stores the codes at a place and multiplies in 16 bits, though the scheme quantizes inputs."""
    kernel = kernel_for(scheme)
    return bool(kernel and scheme.activations and not isinstance(place, str) and place < kernel.codes_from)


def _unfit(kernel: Kernel, scheme: Scheme, name: str = "", shape: tuple[int, int] | None = None) -> str | None:
    """Why a kernel does not take the group or the layer's shape; None where it does."""
    grain = None if scheme.weights is None else scheme.weights.granularity
    if not kernel.marlin:
        return None
    if isinstance(grain, PerGroup) and grain.group_size not in MARLIN_GROUPS:
        return f"takes groups of {', '.join(map(str, MARLIN_GROUPS))} and whole rows, not {grain}"
    if shape is not None and (shape[1] % MARLIN_INPUTS or shape[0] % MARLIN_OUTPUTS):
        return (
            f"(Marlin) wants in_features in multiples of {MARLIN_INPUTS} and out_features of {MARLIN_OUTPUTS}, and "
            f"{name} is {shape[0]} x {shape[1]} (output x input), so a slower one must serve"
        )
    return None


def _own_globals(schemes: Mapping[str, Scheme]) -> list[str]:
    """Where vLLM joins layers and takes one global scale for all, and each has its own. Those that GPTQ solves together
    share it."""
    for together in FUSED:
        mine = [one for name, one in schemes.items() if name.rpartition(".")[2] in together]
        if any(one.weights and one.weights.scales.has_global and not one.needs_hessian for one in mine):
            return [
                f"vLLM takes the largest global scale of {', '.join(together)} for all of them, and rounded to nearest "
                "each has its own, so it would read some wrongly; add gptq, under which they share it"
            ]
    return []


def _int_beside_activations(scheme: Scheme) -> bool:
    weights, activations = scheme.weights, scheme.activations
    return bool(weights and activations and not weights.fmt.is_float and weights.fmt.bits < 8)


def _asymmetric_int(scheme: Scheme) -> bool:
    return scheme.weights is not None and not scheme.weights.symmetric


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
