"""Triton kernels of the products; none is imported before a tensor is on a GPU or Triton's interpreter is on."""
