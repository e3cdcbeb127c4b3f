"""A model as those see it who take it block by block: whole in memory, or in its files. Only this room knows which.

for name, block in held(loaded).in_turn(): ...        each decoder block, its weights on the device, in order
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from quantcore.model.config_file import context_of
from quantcore.model.experts import taken_apart
from quantcore.model.linears import block_names
from quantcore.model.loading import LoadedModel
from quantcore.model.locate import Place
from quantcore.model.places import with_places


class Held(Protocol):
    """What can be asked of a model, however it is held.

    skeleton     the model: its modules, names and shapes; a weight may be read only inside `in_turn`
    blocks       names of the decoder blocks in order
    around       the model with a BlockPlace where each block was, all else on the device
    folder       where the model's files are; None of one that was made in memory
    in_turn      the blocks in order, each on the device while it has its turn; close it to end early
    state_dict   every tensor that a checkpoint stores, by name, in the model's type, wherever it lies
    file_dtype   the float type in which a tensor is kept now; None for other types"""

    @property
    def id(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def blocks(self) -> list[str]: ...
    @property
    def skeleton(self) -> Any: ...
    @property
    def around(self) -> Any: ...
    @property
    def revision(self) -> str: ...
    @property
    def context(self) -> int | None: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def folder(self) -> Path | None: ...
    def in_turn(self) -> Generator[tuple[str, nn.Module], None, None]: ...
    def state_dict(self) -> Mapping[str, Tensor]: ...
    def file_dtype(self, name: str) -> torch.dtype | None: ...


class WholeModel:
    """A model that is in memory as a whole, its experts apart; the properties are `Held`'s."""

    def __init__(self, model: nn.Module, id: str = "", tokenizer: Any = None, place: Place | None = None) -> None:
        self.skeleton: Any = taken_apart(model)
        self.id, self.tokenizer, self._place = id, tokenizer, place
        self.device = next(model.parameters()).device
        self.blocks = block_names(self.skeleton)

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return sum(one.numel() for one in self.skeleton.parameters())

    @property
    def revision(self) -> str:
        return self._place.revision if self._place else ""

    @property
    def context(self) -> int | None:
        return context_of(self.skeleton.config)

    @property
    def folder(self) -> Path | None:
        name = str(getattr(getattr(self.skeleton, "config", None), "name_or_path", ""))
        return Path(name) if name and Path(name).is_dir() else None

    @cached_property
    def around(self) -> Any:
        return with_places(self.skeleton, self.blocks)

    def in_turn(self) -> Generator[tuple[str, nn.Module], None, None]:
        for name in self.blocks:
            yield name, self.skeleton.get_submodule(name)

    def state_dict(self) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = self.skeleton.state_dict()
        return found

    def file_dtype(self, name: str) -> torch.dtype | None:
        dtype = self._tensors[name].dtype
        return dtype if dtype.is_floating_point else None

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        return self.state_dict()


def held(source: nn.Module | LoadedModel | Held) -> Held:
    """The source as one that can be taken block by block."""
    if isinstance(source, LoadedModel):
        return WholeModel(source.model, source.id, source.tokenizer, source.place)
    return WholeModel(source) if isinstance(source, nn.Module) else source
