"""Harmless moves of a scale: another draw of rounding luck, for the same scheme.

    lo', hi' = lo (1 + d), hi (1 + d)        |d| <= half a grain of the scale as a 16-bit float, 2^-12 / mantissa

A scale is stored in 16 bits, so nobody can say where within half a grain (half a unit in the last place of float16) it
should lie. Moving it there moves some weights across the middle between two codes: which of two equally good codes a
weight gets is luck, and the model's figures with it. d is a hash of the range's own bits and the seed, uniform between
the ends: the same on every device, and as good as independent from tile to tile and layer to layer. Scales that are
codes of 8 bits have no such grain; those under a global scale move with it, and powers of two cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 2**32 - 1
HALF_GRAIN = 2.0**-12  # of a float16 with mantissa 1 as frexp has it: 10 bits follow the first


def moved(lo: Tensor, hi: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The ranges, each stretched or shrunk by its own share d; shapes stay."""
    reach = torch.maximum(-lo, hi).float()
    mantissa, _ = torch.frexp(torch.where(reach > 0, reach, torch.ones_like(reach)))
    share = 1 + _uniform(reach, seed) * HALF_GRAIN / mantissa
    return lo * share, hi * share


def _uniform(values: Tensor, seed: int) -> Tensor:
    """Numbers in [-1, 1), float32, of the bits of float32 values and a seed: 32 bits mixed twice by multiplying and
    shifting (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators, section 3)."""
    bits = values.contiguous().view(torch.int32).long() & MASK
    bits = (bits + seed * 0x9E3779B9) & MASK
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        bits = ((bits ^ (bits >> 16)) * factor) & MASK
    bits = bits ^ (bits >> 16)
    return bits.float() / 2**31 - 1
