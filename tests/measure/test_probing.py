"""A plan mended in place loses what a whole run says, never more than what it began with, and keeps its budget."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quantcore import compare, quantize_model
from quantcore.lab.lab import Lab
from quantcore.measure import probing
from quantcore.measure.planning import Leaving, plan_for_budget, schemes_near, uniform_choice
from quantcore.measure.probing import probed_plan
from quantcore.measure.sensitivity import Sensitivity, sensitivity
from quantcore.measure.store import Store
from quantcore.model.layer_names import served_as_one
from quantcore.model.loading import LoadedModel

SCHEMES = ["w:int2/group32", "w:int3/group32", "w:int4/group32"]
BUDGET = 3.5  # int3 for all, with the scales


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (4, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def costs(tiny_lm: LoadedModel, tokens: torch.Tensor) -> Sensitivity:
    return sensitivity(tiny_lm.model, SCHEMES, tokens)


def test_a_plan_by_wrong_costs_is_mended(tiny_lm: LoadedModel, tokens: torch.Tensor, costs: Sensitivity) -> None:
    """The costs are turned round, so that the plan by them quantizes hardest what hurts most."""
    most = {text: max(costs.alone[one, text] for one in costs.layers) for text in SCHEMES}
    wrong = replace(costs, alone={(one, text): most[text] * 1.01 - kl for (one, text), kl in costs.alone.items()})
    told: list[float] = []
    found = probed_plan(tiny_lm.model, wrong, BUDGET, tokens, progress=lambda share, _: told.append(share))
    start = plan_for_budget(wrong, BUDGET)
    for plan, kl in ((start.plan, found.start_kl), (found.chosen.plan, found.chosen.predicted_kl)):
        whole, _ = quantize_model(tiny_lm.model, str(plan))
        assert kl == pytest.approx(compare(tiny_lm.model, whole, tokens).kl, rel=1e-3)
    assert found.uniform_kl is not None
    assert found.chosen.predicted_kl < min(found.start_kl, found.uniform_kl)
    assert found.chosen.bits_per_weight <= BUDGET + 1e-9
    assert found.changed
    units = served_as_one(costs.layers).values()
    assert all(len({found.chosen.choice[one] for one in unit}) == 1 for unit in units)
    assert found.probes > len(units) * 2  # int3 for all is where it begins; int2 and int4 are within reach, then again
    assert list(found.kls) == sorted(found.kls, reverse=True)
    assert found.kls[-1] == found.chosen.predicted_kl
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_change_in_place_is_what_a_whole_run_says(
    tiny_lm: LoadedModel, tokens: torch.Tensor, costs: Sensitivity
) -> None:
    """With room for one unit at 4 bits the one is found that whole runs of all such plans find."""
    units = served_as_one(costs.layers)
    sizes = {unit: sum(costs.weights[one] for one in names) for unit, names in units.items()}
    budget = BUDGET + max(sizes.values()) / sum(costs.weights.values())
    two = replace(costs, schemes=tuple(SCHEMES[1:]), alone=dict.fromkeys(costs.alone, 0.0))
    found = probed_plan(tiny_lm.model, two, budget, tokens)
    ones = {}
    for unit, names in units.items():
        plan = f"{SCHEMES[1]}@{','.join(names)}={SCHEMES[2]}"
        ones[unit] = compare(tiny_lm.model, quantize_model(tiny_lm.model, plan)[0], tokens).kl
    assert found.chosen.predicted_kl <= min(ones.values()) * 1.001
    assert found.chosen.choice[min(ones, key=ones.__getitem__)] == SCHEMES[2]


def test_a_plan_that_leaves_another_by_a_few_units(costs: Sensitivity) -> None:
    """Costs that want every unit in 4 bits, and a budget that allows it: one unit may go, and the dearest goes."""
    units = served_as_one(costs.layers)
    present = dict.fromkeys(costs.layers, SCHEMES[1])
    alone = {
        (one, text): -float(place) * (text == SCHEMES[2]) for place, one in enumerate(costs.layers) for text in SCHEMES
    }
    dear = max(units, key=lambda unit: sum(-alone[one, SCHEMES[2]] for one in units[unit]))
    found = plan_for_budget(replace(costs, alone=alone), 4.5, leaving=Leaving(present, 1)).choice
    assert {one for one, text in found.items() if text != SCHEMES[1]} == set(units[dear])


def test_later_rounds_try_what_wasworth_it(costs: Sensitivity) -> None:
    """4 bits that lose more than 3 are not tried again, 2 bits are: they are cheaper."""
    units = served_as_one(costs.layers)
    changes = {unit: {SCHEMES[0]: 0.5, SCHEMES[1]: 0.0, SCHEMES[2]: 0.1} for unit in units}
    choice = dict.fromkeys(costs.layers, SCHEMES[1])
    assert probing.worth_it(costs, changes, choice) == {unit: [SCHEMES[0]] for unit in units}


def test_the_lab_keeps_it(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    asked = (tuple(SCHEMES), BUDGET, "calibration/story|4x40", "calibration/story|4x40")
    lab = Lab(tiny_lm, store=Store(tmp_path))
    assert lab.kept_probed_plan(*asked) is None
    found = lab.probed_plan(*asked)
    assert Lab(tiny_lm, store=Store(tmp_path)).kept_probed_plan(*asked) == found
    assert lab.kept_probed_plan(asked[0], 3.0, *asked[2:]) is None


def test_what_a_plan_is_made_of(costs: Sensitivity) -> None:
    assert schemes_near(3.125, ["group128"]) == tuple(f"w:int{bits}/group128" for bits in (2, 3, 4, 5))
    assert schemes_near(8.1, ["channel", "channel"]) == ("w:int7/channel", "w:int8/channel")
    assert uniform_choice(costs, 3.6) == dict.fromkeys(costs.layers, SCHEMES[1])
    assert uniform_choice(costs, 2.4) is None
