"""Walk through a model's decoder blocks one after another, with every block's inputs at hand.

GPTQ wants block b's Hessians taken behind the blocks that are already quantized. Running the whole model again for each
block would cost blocks^2 / 2 passes; here the hidden states are kept between two blocks, and every block runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model.linears import batches, block_names

_More = tuple[tuple[Any, ...], dict[str, Any]]


class _Reached(Exception):
    """Thrown at the first block: the rest of that forward pass is run block by block."""


class Enough(Exception):
    """Thrown by a hook inside a block that has seen all it came for: the rest of that pass need not be run."""


class BlockWalk:
    """The hidden states that enter the next block, batch by batch, with what else each block is called with.

    Blocks of one model may be called with other masks and other rotary angles (Gemma's local and global attention): the
    first batch runs through the whole model and tells; the others stop at the first block where all are called alike.
    Memory: tokens x hidden numbers in the model's dtype, on its device."""

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        self._hidden: list[Tensor] = []
        self._more: list[list[_More]] = []  # of each batch, what comes with the hidden states: of all blocks, or of any
        self._place = 0
        modules = [model.get_submodule(name) for name in block_names(model)]
        alike = False

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, *rest = args if args else [kwargs["hidden_states"]]
            if not self._more[-1]:
                self._hidden.append(hidden)
            self._more[-1].append((tuple(rest), {name: kwargs[name] for name in kwargs if name != "hidden_states"}))
            if alike:
                raise _Reached

        hooks = [module.register_forward_pre_hook(catch, with_kwargs=True) for module in modules]
        try:
            with torch.inference_mode():
                for batch in batches(tokens, next(model.parameters()).device):
                    self._more.append([])
                    try:
                        model(batch, use_cache=False)
                    except _Reached:
                        continue
                    alike = all(_same(more, self._more[0][0]) for more in self._more[0])
        finally:
            for hook in hooks:
                hook.remove()

    def run(self, block: nn.Module, tick: Callable[[float], None] | None = None) -> None:
        """Run a block over every batch and let its outputs go: for hooks that watch what happens inside, and may throw
        `Enough`."""
        for index in range(len(self._hidden)):
            with suppress(Enough):
                self._output(block, index)
            if tick:
                tick((index + 1) / len(self._hidden))

    def advance(self, block: nn.Module) -> None:
        """Run a block over every batch; its outputs are what enters the next one."""
        for index in range(len(self._hidden)):
            out = self._output(block, index)
            self._hidden[index] = out[0] if isinstance(out, tuple) else out
        self._place += 1

    def _output(self, block: nn.Module, index: int) -> Any:
        args, kwargs = self._more[index][min(self._place, len(self._more[index]) - 1)]
        with torch.inference_mode():
            return block(self._hidden[index], *args, **kwargs)


def _same(one: _More, other: _More) -> bool:
    """Whether two calls come with the very same objects; a number that counts the blocks is another one each time."""
    (args, kwargs), (others, more) = one, other
    pairs = [*zip(args, others, strict=False), *((kwargs[name], more.get(name)) for name in kwargs)]
    return len(args) == len(others) and kwargs.keys() == more.keys() and all(a is b for a, b in pairs)
