"""Another layer in a model's place for a while, and a run that starts at its block: what enters the block is as before,
so the blocks before it hand out what they gave last time. A model whose blocks pass values on by other ways than their
outputs is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model.layer_names import block_of


def require_shortcut(
    base: nn.Module, name: str, layers: Mapping[str, nn.Module], batch: Tensor, from_float: Callable[[str], Any]
) -> None:
    """Raises: ValueError if a run that starts at the layer's block differs from a run from the start."""
    with swapped(base, layers):
        in_full = base(batch, use_cache=False).logits
        with from_float(name):
            short = base(batch, use_cache=False).logits
    if not torch.allclose(in_full.float(), short.float(), rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"this model's blocks pass on more than their outputs (a run from {name!r} differs from a full one), so "
            "single layers cannot be measured; compare whole schemes instead"
        )


@contextmanager
def swapped(model: nn.Module, instead: Mapping[str, nn.Module]) -> Iterator[None]:
    before = {name: model.get_submodule(name) for name in instead}
    try:
        for name, module in instead.items():
            model.set_submodule(name, module)
        yield
    finally:
        for name, module in before.items():
            model.set_submodule(name, module)


@contextmanager
def recalling(model: nn.Module, names: Sequence[str]) -> Iterator[Callable[[str], Any]]:
    """Remember what each block gives in the first run of a batch; yields `start(layer)`, a context in which the blocks
    before the layer's own hand that out again. The model must be ours alone: its blocks' forward is replaced."""
    blocks = [model.get_submodule(name) for name in names]
    given: dict[int, Any] = {}
    own = [block.forward for block in blocks]
    state = {"first": 0, "recording": True}

    def forward_of(place: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if place < state["first"]:
                return given[place]
            result = own[place](*args, **kwargs)
            if state["recording"]:
                given[place] = result
            return result

        return forward

    for place, block in enumerate(blocks):
        block.forward = forward_of(place)

    @contextmanager
    def start(layer: str) -> Iterator[None]:
        state.update(first=_blocks_before(model, names, layer), recording=False)
        try:
            yield
        finally:
            state.update(first=0)

    try:
        yield start
    finally:
        for block in blocks:
            del block.forward


def _blocks_before(model: nn.Module, blocks: Sequence[str], layer: str) -> int:
    """How many blocks come before the layer: those before its own; all of them for the head, none for what is
    elsewhere."""
    if (block := block_of(layer, blocks)) is not None:
        return blocks.index(block)
    heads: Any = model
    head = heads.get_output_embeddings() if hasattr(heads, "get_output_embeddings") else None
    return len(blocks) if head is model.get_submodule(layer) else 0
