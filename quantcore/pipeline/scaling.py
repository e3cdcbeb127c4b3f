"""The channels' scales that a transform chooses for a block, from what enters its Linears while the text passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from quantcore.methods.transforms.options import Awq, Smooth, Transform
from quantcore.methods.transforms.smooth import smoothing_scales
from quantcore.model.experts import every_token
from quantcore.model.inputs import SharedInputs, watch_inputs
from quantcore.model.linears import every_linear
from quantcore.model.wiring import Link, storable
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.search import Searching
from quantcore.scheme.scheme import Scheme

Chosen = list[tuple[Link, Tensor]]
Reaches = list[dict[str, Tensor]]
"""Of each block in turn the largest |x| of each channel that enters its Linears, by name."""


class Scaler(Protocol):
    """Chooses scales, block after block; the walk stands before the block, and then behind it."""

    def scales(
        self, block: nn.Module, links: Sequence[Link], schemes: Mapping[str, Scheme], walk: BlockWalk
    ) -> Chosen: ...


def scaler_of(transforms: Sequence[Transform], reaches: Reaches | None = None) -> Scaler | None:
    """Who chooses scales for these transforms; None where none of them does. reaches: as `Smoothing` has them."""
    for one in transforms:
        if isinstance(one, Smooth):
            return Smoothing(one, reaches)
        if isinstance(one, Awq):
            return Searching(one)
    return None


class Smoothing:
    """SmoothQuant's, from the largest |x| of each channel.

    reaches   those of a text, of all blocks or none; filled where it is empty, so that another alpha reads no text"""

    def __init__(self, transform: Smooth, reaches: Reaches | None = None) -> None:
        self._transform = transform
        self._reaches = [] if reaches is None else reaches
        self._known = iter(list(self._reaches))

    def scales(self, block: nn.Module, links: Sequence[Link], schemes: Mapping[str, Scheme], walk: BlockWalk) -> Chosen:
        links = [one for one in links if one.is_norm or self._transform.through]
        if not any(one.is_norm for one in links) and not (links and self._transform.through):
            raise ValueError(
                f"{self._transform} finds no norm in this model's blocks whose outputs Linears alone read, so there is "
                "nothing to fold the scales into; leave it out"
            )
        layers = every_linear(block)
        if (reach := next(self._known, None)) is None:
            reach = _reach(block, {name for one in links for name in one.readers} & set(layers), walk, schemes)
            self._reaches.append(reach)
        found: Chosen = []
        for link in links:
            seen = {name: reach[name] for name in link.readers if name in reach}
            if not seen:  # experts that no token reached
                continue
            weights = {name: layers[name].weight.detach().abs().amax(0) for name in link.readers if name in layers}
            s = smoothing_scales(link.gathered(seen), link.gathered(weights), self._transform.alpha)
            found.append((link, storable(block, link, s)))
        return found


def _reach(block: nn.Module, names: set[str], walk: BlockWalk, schemes: Mapping[str, Scheme]) -> dict[str, Tensor]:
    """The largest |x| of each channel of what enters these Linears on all ranks' text; the walk passes the block."""
    shared, found = SharedInputs(), dict[str, Tensor]()

    def see(name: str, x: Tensor) -> None:
        if shared.is_first(name, x) and x.numel():
            most = torch.linalg.vector_norm(x.detach().flatten(0, -2), torch.inf, dim=0).float()
            found[name] = torch.maximum(found[name], most) if name in found else most

    every = any(one.every_token for one in schemes.values())
    with torch.inference_mode(), watch_inputs(block, names, see), every_token(block, every):
        walk.advance(block)
    mine = {name: found[first] for name, first in shared.first.items() if first in found}
    if ranks().alone:
        return mine
    pooled: dict[str, Tensor] = {}
    for said in ranks().all_said({name: one.cpu() for name, one in mine.items()}):
        for name, one in said.items():
            pooled[name] = torch.maximum(pooled[name], one) if name in pooled else one
    device = next(block.parameters()).device
    return {name: one.to(device) for name, one in pooled.items()}
