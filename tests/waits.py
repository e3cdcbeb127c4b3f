"""What would make the host wait for a GPU, counted without one."""

from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: a number read from a tensor, a size that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if any(word in str(func) for word in ("local_scalar_dense", "nonzero", "bincount", "unique", "masked_select")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
