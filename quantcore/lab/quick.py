"""A plan in which no text has a say: bits go where rounding moves the weights furthest.

    cost of a layer under a scheme = sum over its weights of (w_hat - w)^2,  in place of what it does to the next words

What a rule of thumb is worth, beside a plan that looked (`layer_costs.plan`).
"""

from __future__ import annotations

from dataclasses import replace

from quantcore.lab.bench import LEARNED, PLANNED_ON, Bench
from quantcore.lab.layer_costs import sensitivity
from quantcore.lab.memo import remembered
from quantcore.lab.specs import weights_of
from quantcore.measure.planning import of_a_kind, plan_for_budget
from quantcore.model.layer_names import measured_together
from quantcore.numbers.qtensor import fake_quantize


@remembered(16, "Rounding the weights of every layer ...")
def quick_plan(
    lab: Bench,
    schemes: tuple[str, ...],
    budget: float,
    reading: str = PLANNED_ON,
    calibration: str = LEARNED,
    by_kind: bool = False,
) -> dict[str, str]:
    """Layer -> scheme, within `budget` bits a weight, scales counted. Layers and their sizes are those whose costs the
    plan by costs, on these texts, is made of (`layer_costs.plan`, and by_kind as there).

    Raises: ValueError for a budget that no choice meets, and for schemes that change more than weights."""
    found = sensitivity(lab, schemes, False, reading, calibration, True)
    members = measured_together(lab.layers())
    moved = {
        (layer, text): sum(_squared_error(lab, one, text) for one in members[layer])
        for layer in found.layers
        for text in found.schemes
    }
    return plan_for_budget(replace(found, alone=moved), budget, of_a_kind if by_kind else None).choice


def _squared_error(lab: Bench, layer: str, scheme: str) -> float:
    weight = lab.weight(layer)
    return float((fake_quantize(weight, weights_of(lab, scheme)) - weight).double().square().sum())
