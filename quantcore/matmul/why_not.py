"""Why a path is closed, path by path: (x, qweight, activations) -> a sentence, or None where it is open.

Of x only device and dtype are read."""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor

from quantcore.matmul.codes import MULTIPLE
from quantcore.numbers.granularity import PerGroup, PerTensor, PerToken
from quantcore.numbers.kernels.triton_here import has_triton
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.spec import QuantSpec

LARGEST_SUM = 2**31 - 1
REAL_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_no_kernels(x: Tensor) -> str | None:
    """Why Triton's kernels cannot run on x; None where they can."""
    if not has_triton():
        return "its kernels need Triton, which is not installed; pip install triton"
    if x.device.type != "cuda":
        return (
            None
            if _interpreted()
            else f"its kernels need a GPU and x is on the {x.device.type}; move the model to cuda"
        )
    capability = torch.cuda.get_device_capability(x.device)
    return (
        None if capability >= (8, 0) else f"its kernels need compute capability 8.0, this GPU has {_dotted(capability)}"
    )


@cache
def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _codes(x: Tensor, qweight: QTensor, activations: QuantSpec | None, floats: bool) -> str | None:
    """Whether both sides are codes of one kind whose scales leave the sum over K."""
    kind = "fp8_e4m3" if floats else "integers"
    if activations is None:
        return f"activations stay float, and it multiplies codes ({kind}) on both sides; add a: to the scheme"
    for side, fmt in (("weights", qweight.spec.fmt), ("activations", activations.fmt)):
        if (fmt.name != "fp8_e4m3") if floats else fmt.is_float:
            return f"it multiplies {kind} and the {side} are {fmt.name}"
    if qweight.scale.shape[-1] > 1 or qweight.scale.shape[0] not in (1, qweight.q.shape[0]):
        return (
            f"weight scales per {qweight.spec.granularity} cannot leave the sum over in_features; use channel or tensor"
        )
    if not isinstance(activations.granularity, PerTensor | PerToken):
        grain = activations.granularity
        return f"activation scales per {grain} cannot leave the sum over in_features; use token or tensor"
    if not floats:
        levels = [
            spec.fmt.qmax - spec.fmt.qmin if not spec.symmetric else -spec.fmt.qmin
            for spec in (qweight.spec, activations)
        ]
        most = int(LARGEST_SUM // (levels[0] * levels[1]))
        if qweight.q.shape[1] > most:
            return f"a sum of {qweight.q.shape[1]} products may not fit 32 bits, {most} do"
    return _dtype(x, REAL_TYPES)


def _dtype(x: Tensor, types: tuple[torch.dtype, ...]) -> str | None:
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in types)
    return None if x.dtype in types else f"it takes x in {names}, got {str(x.dtype).removeprefix('torch.')}"


def int8(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return _codes(x, qweight, activations, floats=False) or why_no_kernels(x)


def int8_torch(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if x.device.type not in ("cpu", "cuda"):
        return f"torch._int_mm runs on cpu and cuda, x is on {x.device.type}"
    return _codes(x, qweight, activations, floats=False)


def fp8(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return fp8_torch(x, qweight, activations) or why_no_kernels(x)


def fp8_torch(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return _codes(x, qweight, activations, floats=True) or no_fp8_here(x)


def no_fp8_here(x: Tensor) -> str | None:
    if x.device.type not in ("cpu", "cuda"):
        return f"fp8 products run on cpu and cuda, x is on {x.device.type}"
    if x.device.type == "cuda" and (capability := torch.cuda.get_device_capability(x.device)) < (8, 9):
        return f"fp8 tensor cores need compute capability 8.9 (Ada, Hopper), this GPU has {_dotted(capability)}"
    return None


def fp8_block(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if activations is None or {qweight.spec.fmt.name, activations.fmt.name} != {"fp8_e4m3"}:
        return "it multiplies fp8_e4m3 on both sides; use FP8_BLOCK"
    width = qweight.q.shape[1] // qweight.scale.shape[1]
    if activations.granularity != PerGroup(MULTIPLE) or width != MULTIPLE or qweight.q.shape[1] % MULTIPLE:
        return (
            f"it scales {MULTIPLE} columns at a time and got weights per {qweight.spec.granularity}, activations per "
            f"{activations.granularity}; use block128x128 and group128"
        )
    return _dtype(x, REAL_TYPES) or no_fp8_here(x) or why_no_kernels(x)


def low_bit(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if activations is not None:
        return "it takes 16-bit activations and the scheme quantizes them"
    fmt, scales = qweight.spec.fmt, qweight.spec.scales
    if fmt.name == "fp8_e5m2":
        return "it unpacks whole numbers, e2m1, e2m3, e3m2 and e4m3, and the weights are fp8_e5m2"
    group = qweight.q.shape[1] // qweight.scale.shape[1]
    pairs = scales.has_global and group == 16 and fmt.bits <= 4  # exact in 16 bits: see `low_bit_matmul`
    if qweight.scale.shape[1] > 1 and group % 32 and not pairs:
        return f"it scales 32 columns at a time, and group_size={group} is no multiple of 32; try group32"
    return _dtype(x, (torch.bfloat16, torch.float16)) or why_no_kernels(x)


def dequantize(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return None
