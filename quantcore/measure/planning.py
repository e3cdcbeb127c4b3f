"""Spend a budget of bits: one scheme for each layer, so that the sum of what the layers cost alone is least.

    alone[l, s] of `sensitivity`, and the mean bits per weight, scales and zero points counted, within the budget:
    a 0/1 linear program, solved exactly (`allocation`)

Layers that are served as one product (q, k, v; gate, up; all experts of a block) take one scheme: vLLM stacks their
weights, so a plan that tears them apart could not be loaded there. That the sum predicts the whole is a model (errors
of layers mostly add up, but not exactly), so a plan's KL is measured beside its prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from quantcore.measure.allocation import allocate, optimal_at_their_price
from quantcore.measure.sensitivity import Sensitivity
from quantcore.model.layer_names import served_as_one
from quantcore.numbers.bits import FLOAT_BITS, weight_size
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

TRAIL = 64  # points of a curve
Price = Callable[[Sequence[str], str], float]  # of layers that choose as one, under a scheme


@dataclass(frozen=True)
class PlannedChoice:
    """A plan and what the sensitivities say of it: the KL it should have, its mean bits per weight, its choices."""

    plan: Plan
    predicted_kl: float
    bits_per_weight: float
    choice: dict[str, str]


def require_budget(bits_per_weight: float, schemes: Sequence[Scheme], layers: Mapping[str, nn.Linear]) -> None:
    """Raises: ValueError for a budget that no choice of these schemes meets, before any layer is measured."""
    named = {name: layer for name, layer in layers.items() if not any(one.skips(name) for one in schemes)}
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in named.items()}
    weights = {name: rows * columns for name, (rows, columns) in shapes.items()}
    bits = [{name: _bits(one, shape) for name, shape in shapes.items()} for one in schemes]
    _require_bits(bits_per_weight, _least(bits, weights, served_as_one(named).values()), weights)


def _bits(scheme: Scheme, shape: tuple[int, int]) -> float:
    if scheme.weights is None:
        return float(FLOAT_BITS)
    return weight_size(scheme.weights, shape, scheme.keeps_g_idx).bits_per_weight


def _require_bits(bits_per_weight: float, smallest: Mapping[str, float], weights: Mapping[str, int]) -> None:
    if not 0 < bits_per_weight < math.inf:
        raise ValueError(f"{bits_per_weight:g} bits per weight are no budget; give a number such as 5")
    if not smallest:
        return
    least = sum(bits * weights[layer] for layer, bits in smallest.items()) / sum(weights[one] for one in smallest)
    if bits_per_weight < least - 1e-9:
        raise ValueError(
            f"a budget of {bits_per_weight:.4g} bits per weight cannot be met: the smallest scheme for every layer "
            f"takes {least:.4g}; raise the budget, or add a smaller scheme"
        )


def of_a_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """Layers by what they are called in their blocks, `q_proj`."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


@dataclass(frozen=True)
class Leaving:
    """A choice that at most so many units may leave."""

    choice: Mapping[str, str]
    units: int


def plan_for_budget(
    found: Sensitivity,
    bits_per_weight: float,
    together: Callable[[Iterable[str]], dict[str, list[str]]] | None = None,
    leaving: Leaving | None = None,
) -> PlannedChoice:
    """The choice of one scheme a layer with the least predicted KL whose mean bits per weight are within the budget.

    together    names which layers choose as one; without it those that are served as one
    leaving     how far the choice may lie from another one
    Raises: ValueError for a budget that no choice meets."""
    units = list((together or served_as_one)(found.layers).values())
    bits = [{layer: found.bits[layer, text] for layer in found.layers} for text in found.schemes]
    _require_bits(bits_per_weight, _least(bits, found.weights, units), found.weights)
    if leaving is not None:
        return _near(found, units, bits_per_weight, leaving)
    return _within(found, units, _bits_price(found), bits_per_weight)


def plan_for_price(found: Sensitivity, price: Price, budget: float, word: str) -> PlannedChoice:
    """The same for a price of another kind, such as milliseconds: `price` of layers that are served as one product
    under a scheme, which adds up over the products; `word` names its unit.

    Raises: as `require_price`."""
    require_price(found.layers, found.schemes, price, budget, word)
    return _within(found, list(served_as_one(found.layers).values()), price, budget)


def require_price(layers: Iterable[str], schemes: Sequence[str], price: Price, budget: float, word: str) -> None:
    """Raises: ValueError for a budget that no choice of these schemes meets, also before any layer is measured."""
    if not schemes:
        raise ValueError("there is no scheme to choose from; give at least one, such as w:int4/group128")
    least = sum(min(price(unit, text) for text in schemes) for unit in served_as_one(layers).values())
    if not least <= budget < math.inf:
        raise ValueError(
            f"a budget of {budget:.4g} {word} cannot be met: the cheapest scheme for every layer takes {least:.4g}; "
            "raise the budget, or add a cheaper scheme"
        )


def plan_trail(found: Sensitivity, price: Price | None = None) -> tuple[tuple[float, float], ...]:
    """Price and predicted KL of plans from the cheapest to the one that costs least, all of those (up to TRAIL, evenly
    spread) that are best at their own price and stand on the lower hull of all plans. price: bits a weight without it.
    """
    units = list(served_as_one(found.layers).values())
    every = optimal_at_their_price(*_prices_and_costs(found, units, price or _bits_price(found)))
    places = np.linspace(0, len(every) - 1, min(TRAIL, len(every))).round().astype(int)
    return tuple((float(taken), float(kl)) for taken, kl in every[places])


def _bits_price(found: Sensitivity) -> Price:
    total = sum(found.weights.values())
    return lambda unit, text: sum(found.bits[one, text] * found.weights[one] for one in unit) / total


def _prices_and_costs(
    found: Sensitivity, units: Sequence[Sequence[str]], price: Price
) -> tuple[list[list[float]], list[list[float]]]:
    prices = [[price(unit, text) for text in found.schemes] for unit in units]
    return prices, [[sum(found.alone[one, text] for one in unit) for text in found.schemes] for unit in units]


def _within(found: Sensitivity, units: Sequence[Sequence[str]], price: Price, budget: float) -> PlannedChoice:
    return _chosen(found, units, allocate(*_prices_and_costs(found, units, price), budget))


def _near(
    found: Sensitivity, units: Sequence[Sequence[str]], bits_per_weight: float, leaving: Leaving
) -> PlannedChoice:
    """The same 0/1 program with one more limit, by a solver of any such."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # .3 s to import: only those who mend a plan pay it

    prices, costs = map(np.array, _prices_and_costs(found, units, _bits_price(found)))
    one_each = np.repeat(np.eye(len(units)), len(found.schemes), axis=1)
    left = np.array([float(text != leaving.choice[unit[0]]) for unit in units for text in found.schemes])
    result = milp(
        costs.ravel() / (costs.max() or 1.0),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(prices.reshape(1, -1) / bits_per_weight, 0, 1 + 1e-9),
            LinearConstraint(left[None], 0, leaving.units),
        ],
        options={"mip_rel_gap": 1e-6, "time_limit": 20.0},
    )
    if result.x is None:
        raise ValueError(f"the solver found no plan within {bits_per_weight:.4g} ({result.message})")
    return _chosen(found, units, result.x.reshape(costs.shape).argmax(1))


def _chosen(found: Sensitivity, units: Sequence[Sequence[str]], taken: Iterable[int]) -> PlannedChoice:
    by_layer = {one: found.schemes[place] for unit, place in zip(units, taken, strict=True) for one in unit}
    return planned(found, {layer: by_layer[layer] for layer in found.layers})


def planned(found: Sensitivity, choice: dict[str, str]) -> PlannedChoice:
    """A choice of one scheme a layer, with what the costs say of it."""
    return PlannedChoice(
        plan=plan_of(choice),
        predicted_kl=sum(found.alone[pair] for pair in choice.items()),
        bits_per_weight=found.mean_bits(choice),
        choice=choice,
    )


def uniform_choice(found: Sensitivity, bits_per_weight: float) -> dict[str, str] | None:
    """One scheme for all layers, the largest within the budget; None where even the smallest is above."""
    bits = {text: found.mean_bits(dict.fromkeys(found.layers, text)) for text in found.schemes}
    within = [text for text in bits if bits[text] <= bits_per_weight + 1e-6]
    return dict.fromkeys(found.layers, max(within, key=bits.__getitem__)) if within else None


def schemes_near(bits_per_weight: float, grains: Sequence[str]) -> tuple[str, ...]:
    """What a plan of so many bits is made of: whole bits, from one below to two above, within 2 and 8, in each
    granularity. The finer the steps, the less of a budget is left over."""
    first = math.floor(bits_per_weight)
    bits = [one for one in range(first - 1, first + 3) if 2 <= one <= 8]
    return tuple(f"w:int{one}/{grain}" for grain in dict.fromkeys(grains) for one in bits)


def _least(
    bits: Sequence[Mapping[str, float]], weights: Mapping[str, int], units: Iterable[Sequence[str]]
) -> dict[str, float]:
    """Bits a weight of each layer under the smallest scheme for its unit; `bits` a layer's, scheme by scheme."""
    least: dict[str, float] = {}
    for unit in units:
        smallest = min(bits, key=lambda known: sum(known[one] * weights[one] for one in unit))
        least |= {one: smallest[one] for one in unit}
    return least


def plan_of(choice: dict[str, str]) -> Plan:
    """The plan that gives each layer its scheme: the most used as the default, the others by the layers' names, in
    which what all have in common at the front is left out."""
    texts = sorted(set(choice.values()), key=lambda text: -list(choice.values()).count(text))
    parts = [name.split(".") for name in choice]
    shared = 0
    while len(parts) > 1 and all(len(p) > shared + 2 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    kept = max(0, shared - 1)  # `layers.0.mlp.up_proj`, not `0.mlp.up_proj`: a number alone says little
    default = Scheme.parse(texts[0])
    if any(Scheme.parse(text).transforms != default.transforms for text in texts):
        raise ValueError(
            f"{texts[0]} and {texts[1]} transform the whole model in different ways, so no plan has layers of both; "
            "give all schemes the same transforms"
        )
    overrides = tuple(
        (".".join(name.split(".")[kept:]), Scheme.parse(text).plain)
        for text in texts[1:]
        for name, chosen in choice.items()
        if chosen == text
    )
    return Plan(default, overrides)
