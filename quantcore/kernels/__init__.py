"""Triton kernels. No module of it is imported before a tensor is on a GPU, or Triton's interpreter is switched on."""

import importlib.util
from functools import cache


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None
