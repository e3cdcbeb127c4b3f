"""The affine map between reals and codes: the formula of quantization, written once.

    q     = clamp(round(x / scale) + zero_point, qmin, qmax)
    x_hat = scale * (q - zero_point)                              symmetric: zero_point is absent

Everything here is elementwise over tensors that broadcast; which numbers share a scale is decided in `qtensor`, which
range they should cover in `observers`.

Conventions that differ between libraries, and ours:
- a symmetric scale is absmax / ((qmax - qmin) / 2): /127.5 on int8's -128..127, /127 on the narrow -127..127, /448 for
  e4m3. The first and the last are compressed-tensors', the second is SmoothQuant's and LLM.int8's;
- the range always includes 0, and a range of nothing but 0 gets scale 1;
- a scale that is itself coded lies on its format's grid from the start (`scales`);
- round(x / s) + z, not round(x / s + z): they differ on exact ties when z is odd. compressed-tensors takes the second;
- rounding is half to even; the code is clamped before it is cast; scales are float32.

Source: Jacob et al. 2017, arXiv:1712.05877, eq. 1 and 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quantcore.numbers.formats import Format
from quantcore.numbers.spec import QuantSpec


class QParams(NamedTuple):
    """Scale (float32, real value per step) and zero point (float32 whole number; None when symmetric), one per tile;
    and (1,) float32 under which coded scales are codes, where their format has one (`scales`)."""

    scale: Tensor
    zero_point: Tensor | None
    global_scale: Tensor | None = None

    def to(self, device: torch.device) -> QParams:
        moved = None if self.global_scale is None else self.global_scale.to(device)
        return self.map(lambda part: part.to(device))._replace(global_scale=moved)

    def map(self, change: Callable[[Tensor], Tensor]) -> QParams:
        """Scale and zero point changed alike; the global scale stays."""
        return QParams(
            change(self.scale), None if self.zero_point is None else change(self.zero_point), self.global_scale
        )


def choose_qparams(lo: Tensor, hi: Tensor, spec: QuantSpec, global_scale: Tensor | None = None) -> QParams:
    """Scale and zero point that carry the real range [lo, hi], widened to hold 0, onto [qmin, qmax].

    symmetric   s = max(-lo, hi) / ((qmax - qmin) / 2)    z = None, s coded as `spec.scales` says
    asymmetric  s = (hi - lo) / (qmax - qmin)             z = clamp(round(qmin - lo / s), qmin, qmax)
    Shapes: lo and hi alike, any; results the same. Units: s is real value per step. A range of zeros gets s = 1.
    `global_scale`: of the tensor, where its scales have one; None: that of these ranges together.
    Raises: ValueError if a bound is NaN or infinite, or any lo > hi. Source: Jacob et al. 2017, section 2.1 and 3."""
    lo, hi = lo.float(), hi.float()
    finite = torch.isfinite(lo) & torch.isfinite(hi)
    if not bool((finite & (lo <= hi)).all()):  # read once: a GPU is waited for
        if not bool(finite.all()):
            raise ValueError(not_finite(float(lo.min()), float(hi.max())))
        raise ValueError(f"a range has lo > hi (largest lo - hi is {float((lo - hi).max()):g}); swap them")
    return qparams_of_range(lo, hi, spec, global_scale)


def not_finite(lo: float, hi: float) -> str:
    """What is said of values whose range is not finite."""
    return (
        f"the values to quantize hold NaN or Inf (range {lo:g} to {hi:g}); "
        "repair the tensor, or leave its layer out with skip="
    )


def qparams_of_range(lo: Tensor, hi: Tensor, spec: QuantSpec, global_scale: Tensor | None = None) -> QParams:
    """`choose_qparams` of float32 bounds that need no check, or are checked later: it never waits for a GPU."""
    fmt, lo, hi = spec.fmt, lo.clamp(max=0), hi.clamp(min=0)
    if spec.symmetric:
        reach = torch.maximum(-lo, hi)
        if global_scale is None and spec.scales.global_of is not None:
            global_scale = spec.scales.global_of(reach.max(), fmt)
        return QParams(spec.scales.code(reach, fmt, global_scale), None, global_scale)
    levels = torch.full_like(lo, fmt.qmax - fmt.qmin)
    scale = torch.where(torch.isfinite(hi - lo), (hi - lo) / levels, hi / levels - lo / levels)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return QParams(scale, torch.round(fmt.qmin - lo / scale).clamp(fmt.qmin, fmt.qmax))


def to_grid(x: Tensor, qparams: QParams, fmt: Format) -> Tensor:
    """The code's value q of every x, as float32: clamp(round(x / s) + z, qmin, qmax). `fmt.encode` stores it.

    Clamped first, to [qmin - z, qmax - z], then rounded: the same, because both bounds are on the grid."""
    scale, zero_point = qparams.scale, qparams.zero_point
    if zero_point is None:
        return fmt.round_to_grid((x.float() / scale).clamp_(fmt.qmin, fmt.qmax))
    steps = (x.float() / scale).clamp_(fmt.qmin - zero_point, fmt.qmax - zero_point)
    return fmt.round_to_grid(steps) + zero_point


def from_grid(q: Tensor, qparams: QParams) -> Tensor:
    """The real value of every code value: x_hat = s * (q - z), float32."""
    return qparams.scale * (q if qparams.zero_point is None else q - qparams.zero_point)


def round_trip(x: Tensor, qparams: QParams, fmt: Format) -> Tensor:
    """What is left of x after quantizing and dequantizing, float32."""
    return from_grid(to_grid(x, qparams, fmt), qparams)
