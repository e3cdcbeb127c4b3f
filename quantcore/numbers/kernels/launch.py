"""Work for a GPU goes to the GPU that holds its tensors, whichever one the calling thread has chosen.

Triton launches on the thread's current device, CUDA events are recorded on its stream, and a graph is captured on a
stream of the device that was current when the first one was made: on a machine with two GPUs each of them misses the
tensors of cuda:1. So all three go through this file, and nothing else launches a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Inside it `device` is the thread's current GPU; for a CPU nothing changes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run a Triton kernel on the device of its first tensor, on that device's current stream."""
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
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
