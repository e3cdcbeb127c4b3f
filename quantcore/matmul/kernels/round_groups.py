"""Activations rounded to what their codes stand for, group by group, in one pass: a group is read once, its range
found, its scale coded, its values rounded and written.

    x_hat = scale * round(clamp(x / scale))       scale of max(|x|) of the group, stored as the spec says (`scales`)

x_hat is that of `qtensor.fake_quantize`, bit for bit. Products with such activations are of x_hat: no GPU up to Hopper
multiplies e2m1, or scales groups inside a product. A group that holds NaN or Inf becomes NaN (to refuse it, as on the
CPU, would wait for the GPU).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.numbers.affine import QParams
from quantcore.numbers.formats import FP8_E4M3, Format
from quantcore.numbers.granularity import PerGroup
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.scales import LEAST_EXPONENT, SMALL_E4M3, carried_bits, top_exponent
from quantcore.numbers.spec import MinMax, QuantSpec

A_PROGRAM, WARPS = 1024, 2  # numbers of a program; what was quickest on an H200
WHOLE = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, half to even
INFINITE = tl.constexpr(0x7F800000)  # the bits of what is not finite begin here
LEAST = tl.constexpr(LEAST_EXPONENT)
SMALL = tl.constexpr(SMALL_E4M3)
E4M3_TOP = tl.constexpr(FP8_E4M3.qmax)


@triton.jit
def _on_grid(x, MANTISSA: tl.constexpr, NORMAL: tl.constexpr):
    """The nearest value of a float format, half to even; NORMAL: the exponent of its least normal number."""
    cut: tl.constexpr = 23 - MANTISSA
    bits = x.to(tl.int32, bitcast=True)
    normal = (bits + ((1 << (cut - 1)) - 1) + ((bits >> cut) & 1)) & -(1 << cut)
    magic: tl.constexpr = 1.5 * 2.0 ** (23 + NORMAL - MANTISSA)
    return tl.where(tl.abs(x) < 2.0**NORMAL, (x + magic) - magic, normal.to(tl.float32, bitcast=True))


@triton.jit
def _round_groups(
    x_ptr,
    out_ptr,
    global_ptr,
    count,  # groups
    half_range,
    qmin,
    qmax,
    SCALES: tl.constexpr,  # "float", "e8m0", "e4m3"
    CARRY: tl.constexpr,
    TOP: tl.constexpr,
    MANTISSA: tl.constexpr,  # of the element; -1: whole numbers
    NORMAL: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = (group < count)[:, None]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)
    reach = bits.to(tl.float32, bitcast=True)
    if SCALES == "e8m0":
        exponent = tl.minimum(tl.maximum(((bits + CARRY) >> 23) - 127 - TOP, LEAST), 127)
        scale = tl.where(bits > 0, ((exponent + 127) << 23).to(tl.float32, bitcast=True), 1.0)
    else:
        scale = tl.div_rn(reach, half_range + tl.zeros_like(reach))
        if SCALES == "e4m3":
            whole = tl.load(global_ptr) + tl.zeros_like(reach)
            local = _on_grid(tl.minimum(whole * scale, E4M3_TOP), 3, -6)  # e4m3
            scale = tl.div_rn(tl.where(local > 0, local, SMALL), whole)
        else:
            scale = tl.where(scale > 0, scale, 1.0)
    scale = tl.where(bits >= INFINITE, float("nan"), scale)[:, None]
    steps = tl.minimum(tl.maximum(tl.div_rn(x, scale + tl.zeros_like(x)), qmin), qmax)
    if MANTISSA < 0:
        steps = (steps + WHOLE) - WHOLE
    else:
        steps = _on_grid(steps, MANTISSA, NORMAL)
    tl.store(out_ptr + at, (scale * steps).to(out_ptr.dtype.element_ty), mask=inside)


def takes(spec: QuantSpec, static: QParams | None) -> bool:
    """Whether the kernel rounds activations of this spec: symmetric groups of a power of two, ranges at run time."""
    group = spec.granularity.group_size if isinstance(spec.granularity, PerGroup) else 0
    known = spec.scales.global_of is None or (static is not None and static.global_scale is not None)
    simple = spec.symmetric and spec.dynamic and spec.observer == MinMax()
    return simple and known and group > 0 and group & (group - 1) == 0 and group <= A_PROGRAM


def round_groups(x: Tensor, spec: QuantSpec, static: QParams | None = None) -> Tensor:
    """x_hat in the shape and dtype of x (..., K), under a spec that the kernel `takes`.

    Raises: ValueError where groups do not divide K."""
    assert isinstance(spec.granularity, PerGroup)
    spec.granularity.tile(x.shape)
    x, group, fmt = x.contiguous(), spec.granularity.group_size, spec.fmt
    out = torch.empty_like(x)
    count, together = x.numel() // group, A_PROGRAM // group
    whole = None if spec.scales.global_of is None or static is None else static.global_scale
    launch(
        _round_groups, (triton.cdiv(count, together),),
        x, out, whole, count, fmt.half_range, fmt.qmin, fmt.qmax, SCALES=spec.scales.name,
        CARRY=1 << (23 - carried_bits(fmt) - 1), TOP=top_exponent(fmt), **_grid(fmt), GROUP=group, GROUPS=together,
        num_warps=WARPS,
    )  # fmt: skip
    return out


def _grid(fmt: Format) -> dict[str, int]:
    if fmt.mantissa_bits is None:
        return {"MANTISSA": -1, "NORMAL": 0}
    return {"MANTISSA": fmt.mantissa_bits, "NORMAL": fmt.min_exponent}
