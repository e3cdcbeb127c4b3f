"""What the products written for Hopper's tensor cores share.

A program is one multiprocessor's: a warp or two ask the bulk copy engine for tiles of the operands, two groups of four
warps multiply, 64 rows of a tile each. Barriers in shared memory count the bytes that have come and the groups that are
done with them, so neither group waits for the other: while one unpacks, scales or stores, the tensor cores work for the
other. Written in Gluon, where one says what each warp does and waits for; Triton's own compiler lets all warps of a
program do the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

COPIED = 16  # bytes, of which the bulk copy engine takes whole ones
SWIZZLES = (128, 64, 32)  # bytes of a row that are laid out together
GROUP = 8  # tiles of one operand that all of the other are multiplied by in turn


@triton.jit
def place(tile, tiles_n, tiles_t, GROUP: tl.constexpr):
    """Tile number to (n, t), in groups of GROUP token tiles, so that neighbours in time share operands in the cache."""
    a_group = GROUP * tiles_n
    first = (tile // a_group) * GROUP
    size = min(tiles_t - first, GROUP)
    within = tile % a_group
    return within // size, first + within % size


@cache
def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def described(tensor: Tensor, block: list[int]) -> Any:
    """`tensor`, of two dimensions, as the copy engine takes tiles of it."""
    return TensorDescriptor.from_tensor(tensor, block, _layout(block[1], tensor.element_size()))


@cache
def _layout(columns: int, size: int) -> Any:
    """Of a tile of so many columns of `size` bytes in shared memory."""
    return gl.NVMMASharedLayout(next(wide for wide in SWIZZLES if columns * size % wide == 0), 8 * size, 2)
