"""What the Triton kernels share; none is imported before a tensor is on a GPU or Triton's interpreter is on."""
