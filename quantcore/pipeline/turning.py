"""Which Linears of a block turn their inputs when the model runs, and by what: R4, QuIP's V, WUSH."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from quantcore.methods.transforms.options import Quip, Rotate, Transform, Wush
from quantcore.methods.transforms.turn import HadamardTurn, Turn, moments_of, wush_turn
from quantcore.model.inputs import SharedInputs, watch_inputs
from quantcore.model.layer_names import expert_of
from quantcore.model.linears import every_linear
from quantcore.model.turned import turn_inputs
from quantcore.model.wiring import Link, copy_of, stored
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.ranks import ranks

SEED = 0


def turns_online(transforms: Sequence[Transform]) -> bool:
    """Whether any of these is done when the model runs."""
    return any(one.every_input or (isinstance(one, Rotate) and one.inner) for one in transforms)


def with_turns(block: nn.Module, turns: Mapping[str, Turn]) -> nn.Module:
    """A copy of the block whose Linears, by name, turn their inputs and have the weights for that."""
    layers = every_linear(block)
    weights = {f"{name}.weight": turn.of_weight(layers[name].weight.detach()) for name, turn in turns.items()}
    made = copy_of(block, {name: stored(block, layers, name, one) for name, one in weights.items()})
    for name, turn in turns.items():
        turn_inputs(made.get_submodule(name), turn)
    return made


class Turning:
    """The turns of a plan's transforms, block after block. Inputs of one width share theirs, but for WUSH."""

    def __init__(self, transforms: Sequence[Transform], device: torch.device) -> None:
        self._transforms, self._device = transforms, device
        self._known: dict[tuple[int, bool], HadamardTurn] = {}

    def turns(
        self, block: nn.Module, names: Collection[str], folded: Collection[str], walk: BlockWalk | None
    ) -> dict[str, Turn]:
        """Of the Linears `names` of a block those that turn.

        folded   those whose inputs R1 or R2 turn already
        walk     a text before the block, for WUSH, which it passes
        Raises: ValueError for WUSH of experts, and a width that no block divides"""
        found: dict[str, Turn] = {}
        for one in self._transforms:
            if isinstance(one, Rotate) and one.inner:
                found |= self._hadamard(block, [name for name in names if name not in folded], one, None, False)
            if isinstance(one, Quip):
                found |= self._hadamard(block, names, one, one.block, one.kind == "signed")
            if isinstance(one, Wush):
                _require_no_experts(names, one)
                assert walk is not None
                found |= _wush(block, names, walk, one)
        return found

    def _hadamard(
        self, block: nn.Module, names: Collection[str], transform: Transform, asked: int | None, signed: bool
    ) -> dict[str, Turn]:
        layers, found = every_linear(block), dict[str, Turn]()
        for name in names:
            columns = layers[name].in_features
            width = asked or columns & -columns
            if width < 2 or columns % width:
                raise ValueError(
                    f"{transform} turns {name!r} by blocks of {width} channels, which do not divide its {columns}; "
                    f"leave it out, or skip={name.rpartition('.')[2]}"
                )
            if (width, signed) not in self._known:
                self._known[width, signed] = HadamardTurn(width, _signs(width, self._device) if signed else None)
            found[name] = self._known[width, signed]
        return found


def _signs(width: int, device: torch.device) -> Tensor:
    drawn = torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(SEED))
    return (2 * drawn - 1).float().to(device)


def _require_no_experts(names: Collection[str], transform: Wush) -> None:
    if experts := [name for name in names if expert_of(name)]:
        raise ValueError(
            f"{transform} makes matrices of what enters each Linear, and {len(experts)} of a block's are experts', "
            "each with the few tokens that its router gives it; write skip=experts, or quip=hadamard, whose matrix is "
            "the same for all"
        )


def _wush(block: nn.Module, names: Collection[str], walk: BlockWalk, transform: Wush) -> dict[str, Turn]:
    layers, shared, moments = every_linear(block), SharedInputs(), dict[str, Tensor]()

    def see(name: str, x: Tensor) -> None:
        if shared.is_first(name, x):
            found = moments_of(x.detach().flatten(0, -2).float(), transform.block)
            moments[name] = moments[name] + found if name in moments else found

    with torch.inference_mode(), watch_inputs(block, names, see):
        walk.advance(block)
    first, pooled = _of_all_ranks(shared.first, moments)
    return {
        name: wush_turn(layers[name].weight.detach(), pooled[reader].to(layers[name].weight.device))
        for name, reader in first.items()
    }


def _of_all_ranks(first: dict[str, str], moments: dict[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Who reads what, and the sums, over the ranks' text; a rank without text has neither."""
    if ranks().alone:
        return first, moments
    said = ranks().all_said((first, {name: one.cpu() for name, one in moments.items()}))
    readers = {name: reader for mine, _ in reversed(said) for name, reader in mine.items()}
    sums = {one: torch.stack([its[one] for _, its in said if one in its]).sum(0) for one in set(readers.values())}
    return readers, sums


def turned_by_folding(links: Sequence[Link], heads: Sequence[Link], width: int) -> set[str]:
    """The Linears whose inputs R1 and R2 turn; width: of the hidden states."""
    mine = [one for one in links if one.is_norm and one.channels == width] + list(heads)
    return {name for one in mine for name in one.readers}
