"""Which weights vLLM multiplies by which inputs, on which GPUs: of Linears, and of a mixture's experts.

All experts of a block are multiplied at once by one fused kernel, and fewer schemes have one than Linears have. Each
row has its source and date; nothing here was run with vLLM. NVIDIA GPUs are named by compute capability: 7.5 Turing
(T4), 8.0 Ampere (A100), 8.6 (RTX 30), 8.9 Ada (L4, RTX 40), 9.0 Hopper (H100, H200), 10 and above Blackwell (B200, RTX
50).
"""

from __future__ import annotations

from typing import NamedTuple

from quantcore.export.words import strategy, whole
from quantcore.numbers.granularity import PerGroup
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.scheme.spec_text import when_of

FP8_WEIGHTS = "fp8_e4m3/tensor fp8_e4m3/channel fp8_e4m3/block"
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
        "int4/group int4/channel",
        "float",
        "4-bit integer weights alone: NVIDIA 7.5 and above (Marlin; on 7.5 with fp16), AMD MI300 (Triton), x86 CPUs",
        "vLLM pull requests 29901, December 2025, 37352 (AMD) and 38219 (CPUs), March 2026",
        (7, 5),
        elsewhere=(AMD, CPU),
        marlin=True,
    ),
    Kernel(
        "int8/group int8/channel",
        "float",
        "8-bit integer weights alone: NVIDIA 7.5 and above (Marlin; on 7.5 with fp16)",
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
EXPERTS_LOADER = "vLLM's loader of fused experts, compressed_tensors_moe.py, 2026"
EXPERT_KERNELS = (
    Kernel(
        "int4/group int4/channel int8/group int8/channel",
        "float",
        "experts of 4- and 8-bit integer weights alone: NVIDIA 7.5 and above (fused Marlin)",
        "vLLM pull request 47154, June 2026",
        (7, 5),
        marlin=True,
    ),
    Kernel(
        "int8/channel",
        "int8/token/dynamic",
        "experts of int8 on both sides: NVIDIA 7.5 and above (fused Triton), x86 CPUs",
        "vLLM's fused_moe/experts/triton_moe.py and cpu_moe.py, 2026",
        (7, 5),
        elsewhere=(CPU,),
    ),
    Kernel(
        "int4/group int4/channel",
        "int8/token/dynamic",
        "experts of int4 weights and int8 activations: Arm CPUs alone",
        "vLLM's compressed_tensors_moe_w4a8_int8.py, 2026",
    ),
    Kernel(
        "int4/group",
        "fp8_e4m3/token/dynamic",
        "experts of int4 weights and fp8 activations: NVIDIA 9.0 (Hopper)",
        EXPERTS_LOADER,
        (9, 0),
        (9, 0),
    ),
    *(
        Kernel(
            weights,
            inputs,
            "experts of fp8 on both sides: NVIDIA 8.9 and above (fused CUTLASS, DeepGEMM or Triton), AMD MI300; on "
            "NVIDIA 7.5 to 8.6 the activations stay 16-bit (fused Marlin)",
            "vLLM's fused_moe/oracle/fp8.py, 2026",
            (7, 5),
            codes_from=(8, 9),
            elsewhere=(AMD,),
        )
        for weights, inputs in (
            ("fp8_e4m3/channel", "fp8_e4m3/token/dynamic"),
            ("fp8_e4m3/tensor", "fp8_e4m3/tensor/dynamic fp8_e4m3/tensor/static"),
            ("fp8_e4m3/block", "fp8_e4m3/group/dynamic"),
        )
    ),
    *(
        one._replace(gpus=f"experts of {one.gpus}", source=EXPERTS_LOADER)
        for one in KERNELS
        if one.weights.startswith(("fp4_e2m1/", "fp8_e4m3/group/e8m0"))
    ),
)


def kernel_for(scheme: Scheme, expert: bool = False) -> Kernel | None:
    """The kernel that vLLM has for the scheme, of a Linear or of a mixture's experts; None where it lists none."""
    weights, inputs = scheme.weights, scheme.activations
    if weights is None or (inputs is not None and not weights.symmetric):
        return None
    here, when = _kind(weights), "float"
    if inputs is not None:
        when = f"{_kind(inputs)}/{when_of(inputs)}"
    rows = EXPERT_KERNELS if expert else KERNELS
    return next((one for one in rows if here in one.weights.split() and when in one.inputs.split()), None)


def _kind(spec: QuantSpec) -> str:
    """Format, strategy, and how scales are coded where they are."""
    return "/".join([whole(spec.fmt), strategy(spec), *([spec.scales.name] if spec.scales.is_coded else [])])


def why_not_on(scheme: Scheme, place: Place, expert: bool = False) -> str | None:
    """Why vLLM would not run a scheme at a place; None where it should. What stays float runs everywhere."""
    if scheme.is_float:
        return None
    kernel, what = kernel_for(scheme, expert), f"{'experts under ' * expert}{scheme.label}"
    if kernel is None:
        return f"vLLM lists no kernel for {what}"
    if not kernel.runs_on(place):
        return f"vLLM has no kernel for it here ({kernel.gpus})"
    if place == CPU and scheme.weights is not None and not scheme.weights.symmetric:
        return f"vLLM's kernel for {what} takes no zero points on a CPU"
    why = unfit(kernel, scheme, expert=expert)
    return None if why is None else f"vLLM's kernel for {what} {why}"


def stays_16_bit(scheme: Scheme, place: Place, expert: bool = False) -> bool:
    """Whether vLLM only stores the codes at a place and multiplies in 16 bits, though the scheme quantizes inputs."""
    kernel = kernel_for(scheme, expert)
    return bool(kernel and scheme.activations and not isinstance(place, str) and place < kernel.codes_from)


def unfit(
    kernel: Kernel, scheme: Scheme, name: str = "", shape: tuple[int, int] | None = None, expert: bool = False
) -> str | None:
    """Why a kernel does not take the group or the layer's shape; None where it does."""
    grain = None if scheme.weights is None else scheme.weights.granularity
    if not kernel.marlin:
        return None
    if isinstance(grain, PerGroup) and grain.group_size not in MARLIN_GROUPS:
        return f"takes groups of {', '.join(map(str, MARLIN_GROUPS))} and whole rows, not {grain}"
    if shape is None:
        return None
    there = f"{name} is {shape[0]} x {shape[1]} (output x input), so a slower one must serve"
    odd = any(side % MARLIN_OUTPUTS for side in shape) or all(side % MARLIN_INPUTS for side in shape)
    if expert and odd:
        return (
            f"(fused Marlin) wants hidden states in multiples of {MARLIN_INPUTS} and an expert's width of "
            f"{MARLIN_OUTPUTS}, and {there}"
        )
    if not expert and (shape[1] % MARLIN_INPUTS or shape[0] % MARLIN_OUTPUTS):
        return (
            f"(Marlin) wants in_features in multiples of {MARLIN_INPUTS} and out_features of {MARLIN_OUTPUTS}, and "
            f"{there}"
        )
    return None
