"""What the products written for Hopper's tensor cores share.

A program is one multiprocessor's: two warps ask the bulk copy engine for tiles of the operands, two groups of four
warps multiply, 64 rows of a tile each. Barriers in shared memory count the bytes that have come and the groups that are
done with them, so neither group waits for the other: while one unpacks, scales or stores, the tensor cores work for the
other. Written in Gluon, where one says what each warp does and waits for; Triton's own compiler lets all warps of a
program do the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

COPIED = 16  # bytes, of which the bulk copy engine takes whole ones
SWIZZLES = (128, 64, 32)  # bytes of a row that are laid out together


@cache
def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def described(tensor: Tensor, block: list[int]) -> Any:
    """`tensor`, of two dimensions, as the copy engine takes tiles of it."""
    return TensorDescriptor.from_tensor(tensor, block, _layout(block[1], tensor.element_size()))


def described_flat(tensor: Tensor, block: int) -> Any:
    """`tensor`, one number behind the other, as the copy engine takes `block` of them from anywhere."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=8 * tensor.element_size(), rank=1)
    return TensorDescriptor.from_tensor(tensor.view(-1), [block], layout)


@cache
def _layout(columns: int, size: int) -> Any:
    """Of a tile of so many columns of `size` bytes in shared memory."""
    return gl.NVMMASharedLayout(next(wide for wide in SWIZZLES if columns * size % wide == 0), 8 * size, 2)
