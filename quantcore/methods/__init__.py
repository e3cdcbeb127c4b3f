"""How codes are chosen: GPTQ, its sweep and kernels."""
