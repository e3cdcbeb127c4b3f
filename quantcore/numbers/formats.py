"""A number format is a value: a record of which numbers a code can stand for.

Integer formats hold every whole number of [qmin, qmax]. Float formats hold sign, exponent and mantissa; between two
powers of two their values lie 2^(e - mantissa_bits) apart, so the step grows with the number:

    int4        -8 -7 ... 7                  16 codes, one step everywhere
    fp4_e2m1    0 .5 1 1.5 2 3 4 6 and -     15 values, finer near zero
    fp6_e2m3    0 .125 ... 7.5 and -         63 values                     fp6_e3m2    0 .0625 ... 28 and -
    fp8_e4m3    0 ... 448                    no infinity, one NaN          fp8_e5m2    0 ... 57344

`round_to_grid` is half-to-even for both kinds and expects values that were clamped to the range first: int8 wraps, e5m2
overflows to infinity, and torch builds differ on e4m3 out of range. Both ends of a range lie on the grid, so clamping
before rounding gives what clamping after it would.

A new format is one line below, or `register` from outside. Sources: OCP Open Compute Project 8-bit Floating Point
Specification 1.0 (e4m3, e5m2) and Microscaling Formats 1.0 (e2m1, e2m3, e3m2); integer ranges as two's complement,
`narrow_range` as in Jacob et al. 2017, arXiv:1712.05877, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """One number format.

    bits            of one stored code
    qmin, qmax      the least and the greatest value a code stands for, before scale and zero point
    storage         dtype of one unpacked code: int8 (integers; e2m1's four bits too), or torch's fp8
    exponent_bits, mantissa_bits, bias      float formats only; integers have none
    """

    name: str
    bits: int
    qmin: float
    qmax: float
    storage: torch.dtype
    exponent_bits: int | None = None
    mantissa_bits: int | None = None
    bias: int | None = None

    @property
    def is_float(self) -> bool:
        return self.mantissa_bits is not None

    @property
    def half_range(self) -> float:
        """What a symmetric range is divided by: (qmax - qmin) / 2, so 127.5 for int8, 7.5 for int4, 448 for e4m3."""
        return (self.qmax - self.qmin) / 2

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number; below it the step stays 2^(min_exponent - mantissa_bits)."""
        assert self.bias is not None
        return 1 - self.bias

    def grid(self) -> Tensor:
        """Every value that a code stands for, ascending, each once. Shape (levels,), float32."""
        if not self.is_float:
            return torch.arange(int(self.qmin), int(self.qmax) + 1, dtype=torch.float32)
        positive = self._positive_values()
        return torch.cat([-positive.flip(0)[:-1], positive])

    def round_to_grid(self, x: Tensor) -> Tensor:
        """The nearest value of the grid, ties to the even code; x in units of the scale, within [qmin, qmax] (an
        integer format shifted by a zero point: any whole range). float32 in, float32 out."""
        if not self.is_float:
            return torch.round(x)
        if self.storage.is_floating_point:
            return x.to(self.storage).to(torch.float32)
        assert self.mantissa_bits is not None
        _, exponent = torch.frexp(x)  # |x| = f * 2^exponent, f in [0.5, 1)
        step_exponent = (exponent - 1).clamp(min=self.min_exponent) - self.mantissa_bits
        return torch.round(x * power_of_two(-step_exponent)) * power_of_two(step_exponent)

    def encode(self, values: Tensor) -> Tensor:
        """Values on the grid, within [qmin, qmax], as codes of dtype `storage`.

        A float format without a torch dtype is stored as its bit pattern (sign, exponent, mantissa), sign-extended."""
        if not self.is_float or self.storage.is_floating_point:
            return values.to(self.storage)
        positive = self._positive_values().to(values.device)
        magnitude = torch.searchsorted(positive, values.abs().contiguous())
        negative = (values < 0).to(magnitude.dtype) * (1 << (self.bits - 1))
        return (magnitude - negative).to(self.storage)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes as float32 values on the grid: the inverse of `encode`."""
        if not self.is_float or self.storage.is_floating_point:
            return codes.to(torch.float32)
        positive = self._positive_values().to(codes.device)
        unsigned = torch.remainder(codes.long(), 2**self.bits)
        return torch.cat([positive, -positive])[unsigned]

    def _positive_values(self) -> Tensor:
        """0 and the positive values of a float format in the order of their codes. Shape (levels,), float32."""
        assert self.exponent_bits is not None
        assert self.mantissa_bits is not None
        fraction = torch.arange(2**self.mantissa_bits, dtype=torch.float32) / 2**self.mantissa_bits
        exponents = torch.arange(2**self.exponent_bits - 1, dtype=torch.int32) + self.min_exponent
        subnormal = fraction * 2.0**self.min_exponent
        normal = power_of_two(exponents)[:, None] * (1 + fraction)
        values = torch.cat([subnormal, normal.flatten()])
        return values[values <= self.qmax]


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float32, exact on every device (its bits are written, no library's pow); exponents -126..127."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def int_format(bits: int, narrow_range: bool = False) -> Format:
    """Two's complement of `bits` bits; `narrow_range` leaves the most negative code out (SmoothQuant, LLM.int8)."""
    top = 2 ** (bits - 1) - 1
    name = f"int{bits}_narrow" if narrow_range else f"int{bits}"
    return Format(name, bits, -top if narrow_range else -top - 1, top, torch.int8)


def float_format(name: str, bits: int, exponent_bits: int, bias: int, qmax: float, storage: torch.dtype) -> Format:
    """A signed float format whose largest finite value is `qmax` (codes above it are NaN or infinity)."""
    return Format(name, bits, -qmax, qmax, storage, exponent_bits, bits - 1 - exponent_bits, bias)


FP8_E4M3 = float_format("fp8_e4m3", 8, 4, 7, 448.0, torch.float8_e4m3fn)
FP8_E5M2 = float_format("fp8_e5m2", 8, 5, 15, 57344.0, torch.float8_e5m2)
FP6_E2M3 = float_format("fp6_e2m3", 6, 2, 1, 7.5, torch.int8)
FP6_E3M2 = float_format("fp6_e3m2", 6, 3, 3, 28.0, torch.int8)
FP4_E2M1 = float_format("fp4_e2m1", 4, 2, 1, 6.0, torch.int8)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in [
        *(int_format(bits) for bits in range(2, 9)),
        *(int_format(bits, narrow_range=True) for bits in range(2, 9)),
        FP8_E4M3,
        FP8_E5M2,
        FP6_E2M3,
        FP6_E3M2,
        FP4_E2M1,
    ]
}


def register(fmt: Format) -> None:
    """Make a format known, so that schemes may name it. Raises: ValueError for a name that another format has."""
    if FORMATS.setdefault(fmt.name, fmt) != fmt:
        raise ValueError(f"a number format is called {fmt.name!r} already; give yours another name")


def format_named(name: str) -> Format:
    """The format of that name. Raises: ValueError that lists the names."""
    if name not in FORMATS:
        raise ValueError(f"no number format is called {name!r}; try one of {', '.join(FORMATS)}")
    return FORMATS[name]
