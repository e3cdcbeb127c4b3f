"""Codes narrower than a byte share one: two of 3 or 4 bits, four of 2 bits.

The last dimension is packed, first code in the lowest bits; a width that does not fill the last byte is padded with
zeros. Five to eight bits take a byte each, as does fp8 (already a byte). The bit order is our own, not a checkpoint
format's: `export` writes those.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def codes_per_byte(bits: int) -> int:
    return 8 // bits


def pack(codes: Tensor, bits: int) -> Tensor:
    """int8 codes of `bits` bits, shape (..., K), as uint8 of shape (..., ceil(K / codes_per_byte))."""
    per_byte = codes_per_byte(bits)
    width = 8 // per_byte
    unsigned = (codes.view(torch.uint8) if codes.is_contiguous() else codes.contiguous().view(torch.uint8)) & (
        2**width - 1
    )
    padded = F.pad(unsigned, (0, -codes.shape[-1] % per_byte)).reshape(*codes.shape[:-1], -1, per_byte)
    packed = torch.zeros_like(padded[..., 0])
    for slot in range(per_byte):
        packed |= padded[..., slot] << (slot * width)
    return packed


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """The inverse of `pack`: int8 codes, sign-extended, shape (..., length)."""
    per_byte = codes_per_byte(bits)
    width = 8 // per_byte
    slots = torch.stack([packed << (8 - width * (slot + 1)) for slot in range(per_byte)], dim=-1)
    codes = slots.view(torch.int8) >> (8 - width)
    return codes.flatten(-2)[..., :length].contiguous()
