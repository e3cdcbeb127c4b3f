"""Walk through a model's decoder blocks one after another, with every block's inputs at hand.

GPTQ wants block b's Hessians taken behind the blocks that are already quantized. Running the whole model again for each
block would cost blocks^2 / 2 passes; here the hidden states are kept between two blocks, and every block runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.models import batches, linears, place_of


def block_names(model: nn.Module) -> list[str]:
    """Dotted names of the decoder blocks in order: what holds the Linears that carry a number in their name."""
    names: dict[str, int] = {}
    for name in linears(model):
        number, inside = place_of(name)
        if number is not None:
            names[name.removesuffix(f".{inside}")] = number
    return sorted(names, key=names.__getitem__)


class _Reached(Exception):
    """Thrown at the first block: the rest of that forward pass is run block by block."""


class BlockWalk:
    """The hidden states that enter the next block, batch by batch, with what else the blocks are called with.

    Memory: tokens x hidden numbers in the model's dtype, on its device."""

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        first = model.get_submodule(block_names(model)[0])
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls.append((args, kwargs))
            raise _Reached

        hook = first.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.inference_mode():
                for batch in batches(tokens, next(model.parameters()).device):
                    try:
                        model(batch, use_cache=False)
                    except _Reached:
                        continue
        finally:
            hook.remove()

    def run(self, block: nn.Module, tick: Callable[[float], None] | None = None) -> None:
        """Run a block over every batch and let its outputs go: for hooks that watch what happens inside."""
        with torch.inference_mode():
            for done, (args, kwargs) in enumerate(self._calls):
                block(*args, **kwargs)
                if tick:
                    tick((done + 1) / len(self._calls))

    def advance(self, block: nn.Module) -> None:
        """Run a block over every batch; its outputs are what enters the next one."""
        with torch.inference_mode():
            for index, (args, kwargs) in enumerate(self._calls):
                out = block(*args, **kwargs)
                hidden = out[0] if isinstance(out, tuple) else out
                if args:
                    self._calls[index] = ((hidden, *args[1:]), kwargs)
                else:
                    self._calls[index] = ((), kwargs | {"hidden_states": hidden})
