"""A kernel begins while the one before it ends (programmatic dependent launch, CUDA Programming Guide; from Hopper on).

A launch costs microseconds in which nothing is read: the GPU waits until every program of the kernel before is done,
then starts programs, which wait for their first bytes. A kernel that is launched with `overlapping` starts its programs
as soon as there is room. What it may do at once: get ready, and ask for weights to be brought to the L2 cache
(`bring`), which gives no value that could be too old. Then it calls `after_last`: behind it, all that earlier kernels
wrote can be read. It must be called by every program before it reads or writes anything that another kernel touches,
since only so is a kernel's end also the end of all before it. Such values are not to be read by `ld.global.nc`, which
may be answered from before.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

BRING = tl.constexpr("{ .reg .pred p; setp.ne.b32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.b32 $0, 0; }")


@cache
def overlapping(device: torch.device) -> dict[str, Any]:
    """What a launch of such a kernel takes besides: OVERLAP, and what the driver is told."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}


@triton.jit
def after_last(OVERLAP: tl.constexpr):
    """Wait for the kernel before this one to end, and let the next one begin."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def bring(address, wanted, OVERLAP: tl.constexpr):
    """Ask for the lines of memory at `address` (pointers), where `wanted`."""
    if OVERLAP:
        tl.inline_asm_elementwise(
            BRING, "=r,l,r", [address.to(tl.int64), wanted.to(tl.int32)], dtype=tl.int32, is_pure=False, pack=1
        )
