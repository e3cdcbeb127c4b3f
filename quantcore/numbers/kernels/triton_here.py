"""Triton kernels. No module of it is imported before a tensor is on a GPU, or Triton's interpreter is switched on."""

import importlib.util
from functools import cache

import torch


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def multiprocessors(device: torch.device) -> int:
    """How many the GPU has; for the interpreter 2, enough to show that programs share their work."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
