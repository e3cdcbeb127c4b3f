"""The quick plan: what rounding does to the weights decides, found anew by hand."""

from dataclasses import replace
from pathlib import Path

from quantcore.lab.bench import LEARNED, PLANNED_ON
from quantcore.lab.lab import Lab
from quantcore.measure.planning import of_a_kind, plan_for_budget
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.scheme.scheme import Scheme

SCHEMES = ("w:int2/group32", "w:int4/group32")


def test_bits_go_where_rounding_moves_the_weights_most(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    lab = Lab(tiny_lm, store=Store(tmp_path))
    costs = lab.sensitivity(SCHEMES, False, PLANNED_ON, LEARNED, True)
    by_hand = {}
    for layer, text in costs.alone:
        weight = tiny_lm.model.get_submodule(layer).weight.detach()
        by_hand[layer, text] = float((dequantize(quantize(weight, Scheme.parse(text).weights)) - weight).pow(2).sum())
    found = replace(costs, alone=by_hand)
    assert lab.quick_plan(SCHEMES, 3.5) == plan_for_budget(found, 3.5).choice != lab.plan(SCHEMES, 3.5).choice
    kinds = lab.quick_plan(SCHEMES, 3.5, by_kind=True)
    assert kinds == plan_for_budget(found, 3.5, of_a_kind).choice
    assert len({(layer.rpartition(".")[2], text) for layer, text in kinds.items()}) == 7
