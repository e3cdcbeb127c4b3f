"""What enters a model's Linears, and which of them read the very same tensor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from quantcore.model.linears import every_reader


@contextmanager
def watch_inputs(model: nn.Module, layers: Iterable[str], see: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call `see(name, x)` before each call of the named Linears (or routers, `every_reader`) by this thread while the
    context lasts; a model may be shared, and what another thread runs through it meanwhile is not this one's to see.

    Raises: ValueError for a name that is no Linear of the model."""
    known = every_reader(model)
    here = threading.get_ident()
    names = list(layers)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"no Linear layer is called {unknown[0]!r}; this model has {len(known)}, such as {next(iter(known))}"
        )

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if threading.get_ident() == here:
                see(name, inputs[0])

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(hook_for(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class SharedInputs:
    """Layers that read the very same tensor (q, k, v; gate, up), found as one input after another is told.

    first   for each layer told of, the first layer that reads its input: itself where it is the first"""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self._reader = WeakTensorKeyDictionary()

    def is_first(self, name: str, x: Tensor) -> bool:
        """Whether nobody told of read `x` before the layer `name`."""
        reader = self._reader.setdefault(x, name)  # type: ignore[no-untyped-call]
        self.first.setdefault(name, reader)
        return bool(reader == name)


def shared_inputs(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """For each layer the first that reads the very same tensor, itself if none: {k_proj: q_proj, ...}. Two tokens run
    through the model; a layer that they do not reach (an expert) shares with none."""
    names, shared = list(layers), SharedInputs()
    device = next(model.parameters()).device
    with watch_inputs(model, names, shared.is_first), torch.inference_mode():
        model(torch.zeros(1, 2, dtype=torch.int64, device=device), use_cache=False)
    return {name: shared.first.get(name, name) for name in names}
