"""A model with a place where each decoder block was: what comes before, between and behind the blocks, without them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class BlockPlace(nn.Module):
    """Stands where a decoder block was: hands its input on, or calls `run` instead. Other attributes (such as the
    attention's kind, which models ask their blocks for) are the block's.

    extra    None: the model's blocks return a tensor; else a tuple with so many entries beside it"""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._instead_of = (block,)  # in a tuple, so that it is no submodule
        self.run: Callable[..., Any] | None = None
        self.extra: int | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs) if self.run else self.returned(args[0] if args else kwargs["hidden_states"])

    def returned(self, hidden: Tensor) -> Any:
        """The hidden states in the form in which the model's blocks return them."""
        return hidden if self.extra is None else (hidden, *[None] * self.extra)

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockPlace:
        """A place of its own, for the same block."""
        made = BlockPlace(self._instead_of[0])
        made.extra = self.extra
        return made

    def __getattr__(self, name: str) -> Any:
        if name == "_instead_of" or "_instead_of" not in self.__dict__:
            return super().__getattr__(name)
        return getattr(self._instead_of[0], name)


def with_places(model: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A copy of the model with a BlockPlace where each block was."""
    return copy_with(model, {name: BlockPlace(model.get_submodule(name)) for name in blocks})


def copy_with(model: nn.Module, replaced: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model's modules that shares its tensors, with the given modules in place of the old ones."""
    instead: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    instead |= {id(model.get_submodule(name)): module for name, module in replaced.items()}
    return copy.deepcopy(model, instead)


def places_of(model: nn.Module, blocks: Sequence[str]) -> list[BlockPlace]:
    """The places of a model that `with_places` made, or of a copy of it, in the blocks' order."""
    found = [model.get_submodule(name) for name in blocks]
    return [place for place in found if isinstance(place, BlockPlace)]


def holding(modules: Mapping[str, nn.Module]) -> nn.Module:
    """A module that holds these under their full names and nothing else; under "", the module itself."""
    if "" in modules:
        return modules[""]
    root = nn.Module()
    for name, module in modules.items():
        *path, last = name.split(".")
        holder = root
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(last, module)
    return root
