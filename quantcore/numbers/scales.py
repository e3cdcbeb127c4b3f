"""How the scales themselves are stored: as floats, or as codes of 8 bits.

    float    the checkpoint's own float type, 16 bits as a rule: a scale is what it is
    e8m0     a power of two, its exponent alone            the MX formats, groups of 32: MXFP4, MXFP6, MXFP8
    e4m3     an fp8 number under one float32 a tensor      NVFP4, groups of 16

With reach = max(|x|) of a tile, qmax = m 2^e of the element's format, 1 <= m < 2:

    e8m0     scale = 2^(floor(log2(reach')) - e)           reach' is reach, carried to the next power of two where its
                                                           mantissa rounds up to 2 in as many bits as the element has
    e4m3     scale = e4m3(global * reach / qmax) / global  global = 448 qmax / max(|x| of the tensor)

So e4m3's largest code, 448, is that of the tensor's loudest tile. A coded scale is a float32 like any other from here
on (`QTensor.scale`): rounding, GPTQ and products do not ask how it is stored. `global` is kept beside it, as a
checkpoint wants it; `local_codes` gives the codes back.

compressed-tensors takes the mantissa of e2m1, one bit, for e4m3 elements too: the scale goes up from 448 on already,
and nothing is clipped. e8m0's least scale here is 2^-126, of a tile of zeros 1; e4m3's code of a tile that would get 0
is 0.125, as in compressed-tensors.

A new one is a record in SCALES. Sources: OCP Microscaling Formats 1.0, section 6.3; compressed-tensors 0.20.1,
quantization/utils; NVIDIA, "Introducing NVFP4", June 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.numbers.formats import FP8_E4M3, Format, power_of_two

Code = Callable[[Tensor, Format, "Tensor | None"], Tensor]
"""The scale of tiles whose largest |value| is `reach`, float32: (reach, fmt, global scale) -> scale."""

LEAST_EXPONENT = -126  # of a normal float32
SMALL_E4M3 = 0.125  # the code of a tile too quiet for any


@dataclass(frozen=True)
class ScaleFormat:
    """One way to store scales.

    bits          of one; None: the checkpoint's float type
    code          the scale of a tile, on this format's grid
    global_of     one float32 a tensor, from its reach; None where there is none
    near          how many codes below and above that of max(|x|) a search tries: e4m3's reach past max(|x|) / 4
    """

    name: str
    bits: int | None
    code: Code
    global_of: Callable[[Tensor, Format], Tensor] | None = None
    near: tuple[int, int] = (0, 0)

    @property
    def is_coded(self) -> bool:
        return self.bits is not None

    @property
    def has_grain(self) -> bool:
        """Whether something of a scale may lie anywhere: the scale itself, or the global one that it stands under."""
        return not self.is_coded or self.has_global

    @property
    def has_global(self) -> bool:
        return self.global_of is not None

    def stored_bits(self, float_bits: int) -> int:
        """Of one scale, where floats take `float_bits`."""
        return float_bits if self.bits is None else self.bits

    @property
    def global_bits(self) -> int:
        """What a tensor has once."""
        return 32 if self.has_global else 0

    def neighbours(
        self, qscale: Tensor, global_scale: Tensor | None, near: tuple[int, int] | None = None
    ) -> Iterator[Tensor]:
        """The scales whose codes lie around those of `qscale`, one step after another; `near`: how many steps down and
        up, those of a search where it is not said."""
        down, up = self.near if near is None else near
        codes = local_codes(qscale, global_scale).view(torch.uint8).int()
        least, most = (1, 126) if self.has_global else (127 + LEAST_EXPONENT, 254)
        for step in range(-down, up + 1):
            yield from_codes((codes + step).clamp(least, most).to(torch.uint8), global_scale)

    def reach_of(self, scale: Tensor, fmt: Format) -> Tensor:
        """A reach whose tile gets this very scale: of e8m0 the least one, of others where the largest code lies."""
        return scale * (2.0 ** top_exponent(fmt) if self.is_coded and not self.has_global else fmt.half_range)

    def __str__(self) -> str:
        return self.name


def _as_it_is(reach: Tensor, fmt: Format, _: Tensor | None) -> Tensor:
    # Divided by a tensor: by a Python number CUDA multiplies with the rounded reciprocal, and GPU and CPU would differ.
    scale = reach / torch.full_like(reach, fmt.half_range)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _power_of_two(reach: Tensor, fmt: Format, _: Tensor | None) -> Tensor:
    carry = 1 << (23 - carried_bits(fmt) - 1)
    exponent = ((reach.contiguous().view(torch.int32) + carry) >> 23) - 127 - top_exponent(fmt)
    scale = power_of_two(exponent.clamp(LEAST_EXPONENT, 127))
    return torch.where(reach > 0, scale, torch.ones_like(scale))


def _under_global(reach: Tensor, fmt: Format, global_scale: Tensor | None) -> Tensor:
    assert global_scale is not None
    local = global_scale * (reach / torch.full_like(reach, fmt.half_range))
    local = FP8_E4M3.round_to_grid(local.clamp(max=FP8_E4M3.qmax))
    return torch.where(local > 0, local, torch.full_like(local, SMALL_E4M3)) / global_scale


def _to_448(reach: Tensor, fmt: Format) -> Tensor:
    """Shape (1,). 1 where the tensor is so quiet that there is no other. compressed-tensors rounds twice, so do we."""
    found = reach.clamp(min=torch.finfo(torch.float32).tiny).reciprocal() * (FP8_E4M3.qmax * fmt.half_range)
    return torch.where(torch.isfinite(found), found, torch.ones_like(found)).reshape(1)


def carried_bits(fmt: Format) -> int:
    """How many bits of a reach's mantissa decide whether e8m0 goes to the next power of two."""
    if fmt == FP8_E4M3:
        return 1
    return fmt.bits - 2 if fmt.mantissa_bits is None else fmt.mantissa_bits


def top_exponent(fmt: Format) -> int:
    """e of the format's largest value m 2^e."""
    return math.frexp(fmt.qmax)[1] - 1


FLOAT = ScaleFormat("float", None, _as_it_is)
E8M0 = ScaleFormat("e8m0", 8, _power_of_two, near=(1, 1))
E4M3 = ScaleFormat("e4m3", 8, _under_global, _to_448, near=(2, 7))

SCALES: dict[str, ScaleFormat] = {one.name: one for one in (FLOAT, E8M0, E4M3)}


def local_codes(scale: Tensor, global_scale: Tensor | None) -> Tensor:
    """Coded scales as a checkpoint stores them: e8m0's biased exponents (uint8), or e4m3 under their global scale.
    Exact: what float32 lost of local / global is far less than e4m3's step."""
    if global_scale is not None:
        return (scale * global_scale).to(FP8_E4M3.storage)
    return (scale.contiguous().view(torch.int32) >> 23).to(torch.uint8)


def from_codes(codes: Tensor, global_scale: Tensor | None) -> Tensor:
    """The inverse of `local_codes`; bytes (uint8) of either."""
    if global_scale is not None:
        return codes.view(FP8_E4M3.storage).float() / global_scale
    return power_of_two(codes.int() - 127)
