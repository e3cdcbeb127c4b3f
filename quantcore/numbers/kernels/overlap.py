"""A kernel begins while the one before it ends (programmatic dependent launch, CUDA Programming Guide; from Hopper on).

A launch costs microseconds in which nothing is read: the GPU waits until every program of the kernel before is done and
what it wrote has arrived, then starts programs, which wait for their first bytes. A kernel launched with `overlapping`
is started as soon as every program of the one before has called `let_next`, or ended, and there is room. It gets ready,
calls `after_last`, and from there on sees all that was written before it. Every program of a kernel so launched calls
it, in one of its warps at least: only so is the kernel's end the end of all before it, too.

Before `after_last` a kernel may read packed and coded weights, their scales and zero points, which nobody writes while
products run (`pack_weight`, `coded_weight` and `coded_blocks` wait until they are written), and nothing else; it writes
nothing. Warps that do not call it touch what others write only behind data that the one that did has brought. What
others write is never read by `ld.global.nc`, which may be answered from before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

FEW = 16  # programs
SOME = tl.constexpr(512)  # that have room at once


@lru_cache(4096)
def overlapping(device: torch.device, crowd: int = 0) -> dict[str, Any]:
    """What a launch of such a kernel takes besides: OVERLAP, and what the driver is told. A kernel of which a
    multiprocessor takes several programs says how many programs the one before has: many would crowd it onto the
    multiprocessors that they leave free (a product of 112 programs took 35 us behind 64 short ones, and 24 by itself),
    so it starts when they have ended."""
    if device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) >= (9, 0):
        return {"OVERLAP": True, "launch_pdl": crowd <= FEW}
    return {"OVERLAP": False}


@triton.jit
def after_last(OVERLAP: tl.constexpr):
    """Wait for the kernel before this one to end."""
    if OVERLAP:
        gdc_wait()


@triton.jit
def let_next(OVERLAP: tl.constexpr):
    """Let the kernel behind this one begin; where most of the work is done, for its programs take room."""
    if OVERLAP:
        gdc_launch_dependents()


@triton.jit
def let_next_early(OVERLAP: tl.constexpr):
    """`let_next` at once, where programs are short and no more than SOME: the next kernel gets ready meanwhile, and
    asks for its weight (256 tokens' codes, then their product: 31.5 us for 33). Before `after_last`, for the next one
    waits until this one has ended, and so for all before it (64 tokens' codes, then FP8_BLOCK's product: 22.6 us for
    23.5)."""
    if OVERLAP and tl.num_programs(0) * tl.num_programs(1) <= SOME:
        gdc_launch_dependents()
