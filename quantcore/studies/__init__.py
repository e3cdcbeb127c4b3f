"""Studies: what one page's pictures need, computed in one call from tensors, as a frozen report."""
