"""Work for a GPU goes to the GPU that holds its tensors, whichever one the calling thread has chosen.

Triton launches on the thread's current device, CUDA events are recorded on its stream, and a graph is captured on a
stream of the device that was current when the first one was made: on a machine with two GPUs each of them misses the
tensors of cuda:1. So all three go through this file, and nothing else launches a kernel.

A kernel that was never launched before is compiled first, which takes seconds: `compiling` tells whoever waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Inside it `device` is the thread's current GPU; for a CPU nothing changes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run a Triton kernel on the device of its first tensor, on that device's current stream. A described tensor has
    it as `base`."""
    tensors = (getattr(arg, "base", arg) for arg in args)
    device = next(tensor.device for tensor in tensors if isinstance(tensor, Tensor))
    if device.type == "cuda":
        _watch_compiler()
    with on_device(device):
        kernel[grid](*args, **constants)


@contextmanager
def recording(graph: torch.cuda.CUDAGraph, device: torch.device) -> Iterator[None]:
    """What is launched inside goes into `graph` and does not run. Its stream is of high priority, from a pool of its
    own, so that no other thread's work comes between."""
    stream: Any = torch.cuda.Stream
    with (
        on_device(device),
        torch.cuda.graph(graph, stream=stream(device, priority=-1), capture_error_mode="thread_local"),
    ):
        yield


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Inside it `tell` gets the name of every kernel that this thread is about to compile, or to load from disk."""
    before = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(before)


@cache
def _watch_compiler() -> None:
    """From now on Triton says what it compiles; once a process."""
    from triton import knobs

    knobs.runtime.jit_cache_hook = tell_listener


def tell_listener(**facts: Any) -> None:
    """Triton's hook before it compiles. Its answer, nothing, lets Triton go on."""
    listener = _listener.get()
    if listener is not None:
        listener(facts["fn"].name.strip("_"))
