"""A model as its transforms leave it: the same function, in other weights; taken block by block like any other.

    model = treated(held(source), Plan.parse("W8A8,smooth=0.5"), calibration)
    for name, block in model.in_turn(): ...            norms divided, Linears multiplied, the same hidden states behind

The road, a comparison and an export take it where they would take the model. A block is transformed when its turn
comes, whether the model is in memory or in its files; kept are the channels' scales alone. What a transform wants to
know of the activations is seen on the float model's way over the text: since nothing changes, so does what the next
block reads.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model.held import Held
from quantcore.model.linears import head_of, linear_shapes
from quantcore.model.probe import few_tokens
from quantcore.model.wiring import Link, copy_of, folded, links
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.scales import Chosen, Scaler, scaler_of
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme


def treated(model: Held, plan: Plan, calibration: Tensor | None) -> Held:
    """The model under the plan's transforms; itself where there are none, or where they are done already.

    calibration   (windows, T), for transforms that look at activations"""
    if not plan.transforms or (isinstance(model, Treated) and model.transforms == plan.transforms):
        return model
    return Treated(model, plan, calibration)


def treated_tensors(model: Held) -> dict[str, Tensor]:
    """The tensors of a whole model that its transforms change, by name; none of a model that is as it was."""
    if not isinstance(model, Treated):
        return {}
    found = model.tensors_around
    for name, block in model.base.in_turn():
        found |= {f"{name}.{key}": one for key, one in changed(block, model.of_block(name, block)).items()}
    return found


def treated_model(model: Held) -> nn.Module:
    """A whole model in memory as its transforms leave it, still float."""
    return copy_of(model.skeleton, treated_tensors(model))


def changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """The tensors of the second module that the first has not, by name."""
    known = {id(one) for one in before.parameters()}
    return {name: one.detach() for name, one in after.named_parameters(remove_duplicate=False) if id(one) not in known}


class Treated:
    """A `Held` under transforms. `state_dict` and `file_dtype` tell of the model as it was."""

    def __init__(self, base: Held, plan: Plan, calibration: Tensor | None) -> None:
        """Raises: ValueError for a transform that wants text where there is none."""
        self.base, self.transforms = base, plan.transforms
        if calibration is None and (needy := [str(one) for one in self.transforms if one.needs_text]):
            raise ValueError(f"{needy[0]} looks at what enters the layers, so it needs text; give calibration=")
        self._schemes = plan.schemes_of(linear_shapes(base.skeleton), head_of(base.skeleton))
        self._text = calibration
        self._scaler: Scaler | None = scaler_of(self.transforms)
        self._known: dict[str, Chosen] = {}
        self._kinds: dict[object, list[Link]] = {}

    @property
    def id(self) -> str:
        return self.base.id

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def blocks(self) -> list[str]:
        return self.base.blocks

    @property
    def skeleton(self) -> Any:
        return self.base.skeleton

    @property
    def around(self) -> Any:
        return self.base.around

    @property
    def revision(self) -> str:
        return self.base.revision

    @property
    def context(self) -> int | None:
        return self.base.context

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def folder(self) -> Path | None:
        return self.base.folder

    def state_dict(self) -> Mapping[str, Tensor]:
        return self.base.state_dict()

    def file_dtype(self, name: str) -> torch.dtype | None:
        return self.base.file_dtype(name)

    def in_turn(self) -> Generator[tuple[str, nn.Module], None, None]:
        for name, block in self.base.in_turn():
            yield name, self.of_block(name, block)

    @property
    def tensors_around(self) -> dict[str, Tensor]:
        """What is changed outside of the blocks, by name."""
        return {}

    def of_block(self, name: str, block: nn.Module) -> nn.Module:
        """The block, whose weights are at hand, as the transforms leave it. Blocks come in order, at first."""
        if self._scaler is None:
            return block
        if name == self.blocks[0] and len(self._known) < len(self.blocks):
            self._known = {}
            self._few = BlockWalk(self.base, few_tokens(self.base.skeleton))
            assert self._text is not None
            self._walk = BlockWalk(self.base, ranks().share(self._text))
        if name not in self._known:
            wanted, schemes = self._wanted(name, block), self._schemes_in(name)
            self._known[name] = self._scaler.scales(block, wanted, schemes, self._walk)
            self._few.advance(block)
        for link, scales in self._known[name]:
            block = copy_of(block, folded(block, link, scales))
        return block

    def _wanted(self, name: str, block: nn.Module) -> list[Link]:
        """The links of a block that have a layer to be quantized; blocks of one kind are looked at once."""
        modules = tuple((inside, type(part).__qualname__) for inside, part in block.named_modules())
        kind = modules, tuple((inside, tuple(one.shape)) for inside, one in block.named_parameters())
        if kind not in self._kinds:
            self._kinds[kind] = links(block, self._said)
        mine = self._schemes_in(name)
        return [one for one in self._kinds[kind] if any(reader in mine for reader in one.readers)]

    def _schemes_in(self, name: str) -> dict[str, Scheme]:
        prefix = f"{name}."
        return {one.removeprefix(prefix): scheme for one, scheme in self._schemes.items() if one.startswith(prefix)}

    def _said(self, block: nn.Module) -> Tensor:
        """The hidden states behind a block, over a few tokens."""
        found: list[Tensor] = []

        def hear(_: nn.Module, __: object, out: Any) -> None:
            found.append(out[0] if isinstance(out, tuple) else out)

        hook = block.register_forward_hook(hear)
        try:
            self._few.run(block)
        finally:
            hook.remove()
        return found[0]
