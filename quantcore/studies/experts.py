"""A mixture's experts, block by block: how many tokens each was given, and what quantizing does to it.

    study = expert_study(load, reports)          study.tokens[block][expert], study.damage_db[block][expert]

load       tokens of a text that the router of the float model gives each expert
damage     the least SQNR of the outputs of the expert's Linears on that text, in dB: the lower, the more is lost
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model.experts import Experts
from quantcore.model.inputs import watch_inputs
from quantcore.model.layer_names import expert_of, place_of
from quantcore.model.linears import batches
from quantcore.pipeline.layers import LayerReport


@dataclass(frozen=True)
class ExpertStudy:
    """Rows are the blocks that have experts, columns the experts.

    places     the modules that hold them; blocks: their numbers
    tokens     of the text, that each expert was given
    learned    of the calibration text; None where the scheme learns from none
    damage_db  None where no token of the text reached the expert
    columns    of an expert's first Linear: with fewer tokens to learn from, its Hessian is singular
    scheme     as it is written"""

    scheme: str
    places: tuple[str, ...]
    blocks: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]
    learned: tuple[tuple[int | None, ...], ...]
    damage_db: tuple[tuple[float | None, ...], ...]
    columns: int
    read: int

    @property
    def experts(self) -> int:
        return max(len(row) for row in self.tokens)

    @property
    def even(self) -> float:
        """The share of the tokens that each expert would be given by an even router: of those chosen, by all."""
        return sum(map(sum, self.tokens)) / sum(map(len, self.tokens)) / self.read

    def scarce(self) -> list[tuple[int, int, int]]:
        """(block, expert, tokens) of experts that learn from fewer tokens than they have columns, the least first."""
        found = [
            (block, expert, count)
            for block, row in zip(self.blocks, self.learned, strict=True)
            for expert, count in enumerate(row)
            if count is not None and count < self.columns
        ]
        return sorted(found, key=lambda one: one[2])

    def records(self) -> list[dict[str, Any]]:
        """A row for each expert of each block."""
        return [
            {
                "block": block,
                "expert": expert,
                "tokens read": self.tokens[row][expert],
                "share of the text": self.tokens[row][expert] / self.read,
                "tokens learned from": self.learned[row][expert],
                "least output SQNR, dB": self.damage_db[row][expert],
            }
            for row, block in enumerate(self.blocks)
            for expert in range(len(self.tokens[row]))
        ]


def has_experts(layers: Iterable[str]) -> bool:
    """Whether some of a model's layers are an expert's."""
    return any(expert_of(name) is not None for name in layers)


def expert_load(model: nn.Module, tokens: Tensor) -> dict[str, list[int]]:
    """How many of the tokens (windows, T) the router gives each expert, by the module that holds them."""
    places = {name: module for name, module in model.named_modules() if isinstance(module, Experts)}
    counts = {name: [0] * module.num_experts for name, module in places.items()}
    watched = {
        f"{name}.{number}.{module.names['up']}": (name, number)
        for name, module in places.items()
        for number in range(module.num_experts)
    }

    def see(layer: str, x: Tensor) -> None:
        name, number = watched[layer]
        counts[name][number] += x.numel() // x.shape[-1]

    with watch_inputs(model, watched, see), torch.inference_mode():
        for batch in batches(tokens, next(model.parameters()).device):
            model(batch, use_cache=False)
    return counts


def expert_study(scheme: str, load: Mapping[str, list[int]], reports: Iterable[LayerReport], read: int) -> ExpertStudy:
    """`reports`: of all layers under the scheme, their outputs compared on the text of `read` tokens."""
    by_expert: dict[tuple[str, int], list[LayerReport]] = {}
    for one in reports:
        if (found := expert_of(one.name)) is not None:
            by_expert.setdefault((found[0], found[1]), []).append(one)
    damage = {key: [one.output_sqnr_db for one in found] for key, found in by_expert.items()}
    first = next(iter(by_expert.values()))
    return ExpertStudy(
        scheme=scheme,
        places=tuple(load),
        blocks=tuple(place_of(name)[0] or 0 for name in load),
        tokens=tuple(tuple(row) for row in load.values()),
        learned=tuple(
            tuple(_learned(by_expert.get((name, number), [])) for number in range(len(row)))
            for name, row in load.items()
        ),
        damage_db=tuple(
            tuple(
                min((one for one in damage.get((name, number), []) if one is not None), default=None)
                for number in range(len(row))
            )
            for name, row in load.items()
        ),
        columns=first[0].shape[-1],
        read=read,
    )


def _learned(reports: list[LayerReport]) -> int | None:
    counts = [one.tokens for one in reports if one.tokens is not None]
    return min(counts) if counts else None


def tokens_by_expert(reports: Iterable[LayerReport]) -> dict[str, dict[int, int]]:
    """For each module of experts the calibration tokens that each of its experts learned from, as reports say it."""
    found: dict[str, dict[int, int]] = {}
    for one in reports:
        place = expert_of(one.name)
        if place is not None and one.tokens is not None:
            row = found.setdefault(place[0], {})
            row[place[1]] = min(one.tokens, row.get(place[1], one.tokens))
    return found
