"""What the products written for Hopper's tensor cores share.

A program is one multiprocessor's: one warp asks the bulk copy engine for tiles of the operands, two groups of four
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
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from quantcore.numbers.kernels.overlap import BRING

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


@gluon.jit
def bring_rows(ptr, first, rows, BYTES: gl.constexpr, COUNT: gl.constexpr, OVERLAP: gl.constexpr):
    """`overlap.bring` of COUNT rows of BYTES from `first` on, up to `rows`, side by side in memory; by four warps."""
    if OVERLAP:
        at = first.to(gl.int64) * BYTES + 128 * gl.arange(
            0, COUNT * BYTES // 128, gl.BlockedLayout([1], [32], [4], [0])
        )
        gl.inline_asm_elementwise(
            BRING, "=r,l,r", [ptr.to(gl.int64) + at, (at < rows.to(gl.int64) * BYTES).to(gl.int32)], dtype=gl.int32,
            is_pure=False, pack=1,
        )  # fmt: skip


@gluon.jit
def gluon_after_last(OVERLAP: gl.constexpr):
    """`overlap.after_last`."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


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
