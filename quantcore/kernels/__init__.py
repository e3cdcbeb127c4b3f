"""Triton kernels. Nothing here is imported before a tensor is on a GPU, or Triton's interpreter is switched on."""
