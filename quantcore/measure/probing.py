"""A plan mended where it stands: other schemes are tried in the plan itself, unit by unit, and the change is measured.

    change[u, s] = KL(float || the plan with unit u under s) - KL(float || the plan)                 nats a token

What layers cost alone (`sensitivity`, `fisher`) leaves out what they do to each other: at 3 bits the reference model
loses a third more than the sum. Changes in place hold that, while they are few: the same 0/1 program spends the budget
by them (`planning`), once with every unit free to leave its scheme and then with at most so many (LEAVING). Each plan
that comes out is measured, and from the one that loses least on this text the next round starts, until none does or
after ROUNDS. In a later round those changes are tried again that were worth it in the one before: of a unit, where no
other scheme took fewer bits and lost less.
The first plan is the better one of that by costs alone and of the largest scheme for all within the budget, so the plan
that comes out never loses more on this text than either.

A unit is what is served as one product; at first is tried what lies within REACH bits of its scheme, on PROBED tokens
of the text, evenly spread. A run starts at the unit's block, so a round takes about (units x tries / 2) runs over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quantcore.matmul.decoded import decoded_layer
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.measure.evaluate import BATCH_TOKENS, next_log_p
from quantcore.measure.frontier import unbeaten
from quantcore.measure.planning import Leaving, PlannedChoice, plan_for_budget, planned, uniform_choice
from quantcore.measure.sensitivity import Sensitivity, kl_sum, transformed
from quantcore.measure.swaps import recalling, require_shortcut, swapped
from quantcore.model.experts import taken_apart
from quantcore.model.layer_names import measured_together, served_as_one
from quantcore.model.linears import batches, block_names
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.pipeline.convert import quantized_copy
from quantcore.scheme.scheme import Scheme

REACH = 1.1  # bits a weight
PROBED = 1280  # tokens
ROUNDS = 5
LEAVING = (None, 8, 4, 2)  # units that may leave their scheme at once; None: all


@dataclass(frozen=True)
class ProbedPlan:
    """chosen: the plan; its `predicted_kl` is what it loses on the text that it was probed on. start_kl: what the plan
    by costs alone loses there; uniform_kl: the largest scheme for all within the budget, None where none is. probes:
    how many changes were measured; changed: how many units took another scheme than by costs alone; kls: what it lost
    there after each round."""

    chosen: PlannedChoice
    start_kl: float
    uniform_kl: float | None
    probes: int
    changed: int
    kls: tuple[float, ...]


def probed_plan(
    model: nn.Module,
    costs: Sensitivity,
    bits_per_weight: float,
    tokens: Tensor,
    *,
    calibration: Tensor | None = None,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> ProbedPlan:
    """The plan within the budget, chosen by `costs` and mended in place on `tokens` (windows, T).

    calibration   text (windows, T) for schemes that need one
    Raises: ValueError as `plan_for_budget`, and for schemes that transform the model in different ways."""
    few = tokens[:: max(1, tokens.numel() // PROBED)]
    bench = _Bench(model, costs.schemes, few, calibration)
    start = plan_for_budget(costs, bits_per_weight)
    choice, kl = dict(start.choice), bench.kl(start.choice)
    start_kl, uniform_kl = kl, None
    if (uniform := uniform_choice(costs, bits_per_weight)) is not None:
        uniform_kl = bench.kl(uniform)
        if uniform_kl < kl:
            choice, kl = uniform, uniform_kl
    probes, kls = 0, list[float]()
    units = served_as_one(costs.layers)
    tries = {unit: near(costs, names, choice[unit]) for unit, names in units.items()}
    for turn in range(rounds):
        changes = bench.changes(choice, kl, costs, tries, part_of(progress, turn, rounds))
        probes += sum(len(own) - 1 for own in changes.values())
        better = _steps(bench, _priced(costs, changes), bits_per_weight, choice)
        if not better or min(better)[0] >= kl:
            break
        kl, _, found = min(better)
        kls.append(kl)
        tries = worth_it(costs, changes, found)
        choice = found
    if progress:
        progress(1.0, "mended")
    changed = sum(choice[unit] != start.choice[unit] for unit in units)
    plan = replace(planned(costs, choice), predicted_kl=kl)
    return ProbedPlan(plan, start_kl, uniform_kl, probes, changed, tuple(kls))


def _steps(
    bench: _Bench, priced: Sensitivity, bits_per_weight: float, choice: Mapping[str, str]
) -> list[tuple[float, int, dict[str, str]]]:
    """Plans that leave a choice by so many units at most, each other than it and measured: its KL and place."""
    found: list[dict[str, str]] = []
    for most in LEAVING:
        leaving = None if most is None else Leaving(choice, most)
        step = dict(plan_for_budget(priced, bits_per_weight, leaving=leaving).choice)
        if step != choice and step not in found:
            found.append(step)
    return [(bench.kl(step), place, step) for place, step in enumerate(found)]


def worth_it(
    costs: Sensitivity, changes: Mapping[str, Mapping[str, float]], choice: Mapping[str, str]
) -> dict[str, list[str]]:
    """Of each unit the schemes, but for the chosen one, of which no other took fewer bits and lost less."""
    found: dict[str, list[str]] = {}
    for unit, names in served_as_one(costs.layers).items():
        prices = {text: (unit_bits(costs, names, text), change) for text, change in changes[unit].items()}
        found[unit] = [text for text in unbeaten(prices, prices.__getitem__) if text != choice[unit]]
    return found


class _Bench:
    """A model whose layers take any scheme's codes in turn, the float model's predictions beside it."""

    def __init__(self, model: nn.Module, schemes: Sequence[str], tokens: Tensor, calibration: Tensor | None) -> None:
        model = transformed(taken_apart(model), Scheme.parse(schemes[0]), calibration)
        self.own = quantized_copy(model, "float")  # modules of our own; the tensors are the model's
        self.like = next(one for one in model.parameters() if one.is_floating_point())
        self.coded: dict[str, dict[str, QuantLinear]] = {}
        for text in schemes:
            copy = quantized_copy(model, Scheme.parse(text).plain, calibration=calibration, sequential=False)
            self.coded[text] = quantized_linears(copy)
        self.members = measured_together(next(iter(self.coded.values())))
        self.blocks = block_names(model)
        with torch.inference_mode():
            parts = batches(tokens, next(model.parameters()).device, BATCH_TOKENS)
            self.read = [(part, next_log_p(self.own, part)) for part in parts]

    def layers(self, names: Sequence[str], text: str) -> dict[str, nn.Module]:
        ones = [one for name in names for one in self.members[name]]
        return {one: decoded_layer(self.coded[text][one], self.like) for one in ones}

    def under(self, choice: Mapping[str, str]) -> dict[str, nn.Module]:
        return {one: layer for name, text in choice.items() for one, layer in self.layers([name], text).items()}

    @torch.inference_mode()
    def kl(self, choice: Mapping[str, str]) -> float:
        """Of the model wholly under a choice of one scheme a layer, nats a token."""
        with swapped(self.own, self.under(choice)):
            return sum(kl_sum(log_p, next_log_p(self.own, part)) for part, log_p in self.read) / self._counted

    def changes(
        self,
        choice: Mapping[str, str],
        kl: float,
        costs: Sensitivity,
        tries: Mapping[str, Sequence[str]],
        tell: Progress | None,
    ) -> dict[str, dict[str, float]]:
        """By unit, named by its first layer, and by scheme that is tried: by how much the choice's KL would change."""
        units = served_as_one(costs.layers)
        sums = {unit: dict.fromkeys(texts, 0.0) for unit, texts in tries.items()}
        done, whole = 0, len(self.read) * sum(map(len, tries.values()))
        with swapped(self.own, self.under(choice)), torch.inference_mode():
            for part, log_p in self.read:
                with recalling(self.own, self.blocks) as start:
                    self.own(part, use_cache=False)
                    if part is self.read[0][0]:
                        last, present = list(units.values())[-1][0], choice[list(units)[-1]]
                        require_shortcut(self.own, last, self.layers([last], present), part, start)
                    for unit, names in units.items():
                        for text in tries[unit]:
                            with swapped(self.own, self.layers(names, text)), start(self.members[names[0]][0]):
                                sums[unit][text] += kl_sum(log_p, next_log_p(self.own, part))
                            done += 1
                            if tell:
                                tell(done / whole, f"trying {unit}")
        changed = {
            unit: {text: found / self._counted - kl for text, found in own.items()} for unit, own in sums.items()
        }
        return {unit: {choice[unit]: 0.0, **own} for unit, own in changed.items()}

    @property
    def _counted(self) -> int:
        return sum(log_p.shape[0] * log_p.shape[1] for _, log_p in self.read)


def near(costs: Sensitivity, names: Sequence[str], present: str) -> list[str]:
    """The other schemes within REACH bits of a unit's present one."""
    bits = {text: unit_bits(costs, names, text) for text in costs.schemes}
    return [text for text in costs.schemes if text != present and abs(bits[text] - bits[present]) <= REACH]


def unit_bits(costs: Sensitivity, names: Sequence[str], text: str) -> float:
    """A unit's mean bits a weight under a scheme."""
    weights = sum(costs.weights[name] for name in names)
    return sum(costs.bits[name, text] * costs.weights[name] for name in names) / weights


def _priced(costs: Sensitivity, changes: Mapping[str, Mapping[str, float]]) -> Sensitivity:
    """The costs as the changes say them, a unit's shared out among its layers; what was not tried costs too much."""
    units = served_as_one(costs.layers)
    most = 1.0 + sum(max(map(abs, own.values())) for own in changes.values())
    alone = {
        (name, text): changes[unit].get(text, most) / len(names)
        for unit, names in units.items()
        for name in names
        for text in costs.schemes
    }
    return replace(costs, alone=alone)
