"""Sensitivities equal plain whole runs, the shortcut through the blocks is exact, plans keep their budget."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from quantcore import compare, quantize_model
from quantcore.export.vllm import serving
from quantcore.matmul.size import quantized_linears
from quantcore.measure.planning import of_a_kind, plan_for_budget, plan_for_price, plan_of
from quantcore.measure.sensitivity import Sensitivity, layer_costs, sensitivity
from quantcore.model.experts import taken_apart
from quantcore.model.layer_names import served_as_one
from quantcore.model.linears import linear_shapes
from quantcore.model.loading import LoadedModel
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from tests.model.test_experts import made

SCHEMES = ["w:int2/group32", "w:int4/group32"]
LAYERS = ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj")


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (12, 100), generator=torch.Generator().manual_seed(1))  # two batches


@pytest.fixture(scope="module")
def found(tiny_lm: LoadedModel, tokens: torch.Tensor) -> Sensitivity:
    return sensitivity(tiny_lm.model, SCHEMES, tokens, all_but=SCHEMES[:1])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_alone_and_all_but_it(
    tiny_lm: LoadedModel, tokens: torch.Tensor, found: Sensitivity, layer: str
) -> None:
    whole, _ = quantize_model(tiny_lm.model, SCHEMES[0])
    alone, _ = quantize_model(tiny_lm.model, "float")
    alone.set_submodule(layer, whole.get_submodule(layer))
    but_it, _ = quantize_model(tiny_lm.model, f"{SCHEMES[0]},skip=lm_head,skip={layer}")
    assert found.alone[layer, SCHEMES[0]] == pytest.approx(compare(tiny_lm.model, alone, tokens).kl, rel=1e-4)
    assert found.all_but[layer, SCHEMES[0]] == pytest.approx(compare(tiny_lm.model, but_it, tokens).kl, rel=1e-4)
    assert found.whole[SCHEMES[0]] == pytest.approx(compare(tiny_lm.model, whole, tokens).kl, rel=1e-4)
    assert found.bits[layer, SCHEMES[0]] == 2.5  # 2 bits and 16 bits of scale over 32 weights
    assert (layer, SCHEMES[1]) not in found.all_but


def test_by_gptq_alone_means_behind_a_float_model(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    scheme = "w:int2/group32,gptq"
    found = sensitivity(tiny_lm.model, [scheme], tokens[:4], calibration=tokens)
    alone, _ = quantize_model(tiny_lm.model, f"float@{LAYERS[1]}={scheme}", calibration=tokens)
    whole, _ = quantize_model(tiny_lm.model, scheme, calibration=tokens)
    assert found.alone[LAYERS[1], scheme] == pytest.approx(compare(tiny_lm.model, alone, tokens[:4]).kl, rel=1e-3)
    assert found.whole[scheme] == pytest.approx(compare(tiny_lm.model, whole, tokens[:4]).kl, rel=1e-4)


def test_what_is_known_so_far(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    looks: list[dict[str, float]] = []
    cost = layer_costs(tiny_lm.model, SCHEMES[0], tokens, so_far=lambda _, costs: looks.append(costs))
    assert [len(one) for one in looks] == [*range(1, 15), *[14] * 14]  # two batches
    first = layer_costs(tiny_lm.model, SCHEMES[0], tokens[:10])
    assert looks[13] == pytest.approx(first.alone)
    assert looks[-1] == cost.alone
    both = layer_costs(tiny_lm.model, SCHEMES[0], tokens, all_but=True, so_far=lambda _, costs: looks.append(costs))
    assert looks[-1] == both.all_but


def test_a_layer_outside_the_blocks_is_measured_too(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    scheme = "w:int2/channel,skip=none"
    found = sensitivity(tiny_lm.model, [scheme], tokens[:2])
    alone, _ = quantize_model(tiny_lm.model, "w:int2/channel,skip=model")
    assert list(quantized_linears(alone)) == ["lm_head"]
    assert found.layers[-1] == "lm_head"
    assert found.alone["lm_head", scheme] == pytest.approx(compare(tiny_lm.model, alone, tokens[:2]).kl, rel=1e-4)


def test_the_model_is_left_as_it_was(tiny_lm: LoadedModel, found: Sensitivity) -> None:
    assert not quantized_linears(tiny_lm.model)
    assert all("forward" not in vars(module) for module in tiny_lm.model.modules())


def test_progress_runs_to_the_end_by_layer(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    calls: list[tuple[float, str]] = []
    sensitivity(tiny_lm.model, SCHEMES, tokens[:2], progress=lambda share, name: calls.append((share, name)))
    assert [share for share, _ in calls] == sorted(share for share, _ in calls)
    assert calls[-1] == (1.0, LAYERS[1])
    assert len(calls) == 2 * 14


def test_a_model_whose_blocks_talk_past_their_outputs_is_refused(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    model, _ = quantize_model(tiny_lm.model, "float")
    first, last = model.model.layers  # type: ignore[union-attr]
    plain, heard = first.forward, {}

    def shouting(*args: object, **kwargs: object) -> object:
        heard["gain"] = 5.0
        return plain(*args, **kwargs)

    first.forward = shouting
    last.register_forward_hook(lambda module, args, out: out + heard.pop("gain", 0.0) * (torch.arange(64) % 3))
    with pytest.raises(ValueError, match="pass on more than their outputs"):
        sensitivity(model, SCHEMES[:1], tokens[:1])


def _by_hand(costs: dict[str, tuple[float, float]]) -> Sensitivity:
    """Two schemes of 2 and 4 bits; a layer's KL under each."""
    layers = tuple(costs)
    return Sensitivity(
        schemes=("w:int2/channel", "w:int4/channel"),
        layers=layers,
        weights=dict.fromkeys(layers, 100) | {layers[0]: 200},
        bits={(layer, text): bits for layer in layers for text, bits in (("w:int2/channel", 2), ("w:int4/channel", 4))},
        alone={
            (layer, text): costs[layer][place]
            for layer in layers
            for place, text in enumerate(("w:int2/channel", "w:int4/channel"))
        },
        all_but={},
        whole={},
        float_bits=16.0,
        tokens=1,
    )


def test_a_budget_is_spent_where_it_helps_most() -> None:
    # layer a is twice as large: 4 bits there cost as much as in b and c together, and save .5 against .3 + .3
    found = _by_hand({"m.0.a": (0.6, 0.1), "m.0.b": (0.4, 0.1), "m.1.c": (0.4, 0.1)})
    chosen = plan_for_budget(found, 3.0)
    assert chosen.choice == {"m.0.a": "w:int2/channel", "m.0.b": "w:int4/channel", "m.1.c": "w:int4/channel"}
    assert chosen.predicted_kl == pytest.approx(0.6 + 0.1 + 0.1)
    assert chosen.bits_per_weight == 3.0
    assert {chosen.plan.scheme_for(name) for name in ("m.0.b", "m.1.c")} == {Plan.parse("w:int4/channel").default}
    assert str(plan_for_budget(found, 2.9).plan.scheme_for("m.0.a")) == "w:int2/channel"
    assert plan_for_budget(found, 4).choice == dict.fromkeys(found.layers, "w:int4/channel")
    with pytest.raises(ValueError, match=r"a budget of 1.9 bits per weight cannot be met: .* takes 2; raise"):
        plan_for_budget(found, 1.9)


def test_a_budget_of_another_price() -> None:
    """4 bits cost 4 in a, 2 in b and c, 2 bits 1 anywhere: 5 buy 4 bits in b and c, which save more than in a."""
    found = _by_hand({"m.0.a": (0.6, 0.1), "m.0.b": (0.5, 0.1), "m.1.c": (0.5, 0.1)})

    def price(unit: Sequence[str], text: str) -> float:
        return 1.0 if text == "w:int2/channel" else 4.0 if unit == ["m.0.a"] else 2.0

    chosen = plan_for_price(found, price, 5.0, "coins")
    assert chosen.choice == {"m.0.a": "w:int2/channel", "m.0.b": "w:int4/channel", "m.1.c": "w:int4/channel"}
    assert plan_for_price(found, price, 8.0, "coins").predicted_kl == pytest.approx(0.3)
    with pytest.raises(ValueError, match="a budget of 2.9 coins cannot be met: .* takes 3; raise the budget"):
        plan_for_price(found, price, 2.9, "coins")


def test_the_solver_finds_what_trying_all_finds() -> None:
    rng = torch.Generator().manual_seed(3)
    costs = {f"m.{i}.x": tuple(sorted(torch.rand(2, generator=rng).tolist(), reverse=True)) for i in range(8)}
    found = _by_hand(costs)
    for budget in (2.2, 2.9, 3.3):
        best = min(
            sum(found.alone[pair] for pair in zip(found.layers, choice, strict=True))
            for choice in itertools.product(found.schemes, repeat=8)
            if found.mean_bits(dict(zip(found.layers, choice, strict=True))) <= budget
        )
        assert plan_for_budget(found, budget).predicted_kl == pytest.approx(best)


def test_layers_that_are_served_as_one_choose_together() -> None:
    """v alone would take 4 bits for .5; with q and k, 600 weights, it takes them only where the budget pays for all."""
    attention = [f"m.0.attn.{part}_proj" for part in "qkv"]
    costs = {attention[0]: (0.11, 0.1), attention[1]: (0.1, 0.1), attention[2]: (0.6, 0.1), "m.0.o_proj": (0.4, 0.1)}
    found = _by_hand(costs)  # q has 200 weights, the others 100: 500 in all
    assert list(served_as_one(found.layers)) == [attention[0], "m.0.o_proj"]
    chosen = plan_for_budget(found, 3.0)  # 250 weights may have 4 bits: o alone, not the 400 of q, k, v
    assert [one for one, text in chosen.choice.items() if text == "w:int4/channel"] == ["m.0.o_proj"]
    chosen = plan_for_budget(found, 3.6)
    assert {chosen.choice[one] for one in attention} == {"w:int4/channel"}
    assert chosen.choice["m.0.o_proj"] == "w:int2/channel"
    assert serving("out", {one: Scheme.parse(text) for one, text in chosen.choice.items()}, 64).problems == ()


def test_layers_of_a_kind_choose_together() -> None:
    """Each budget pays for 4 bits on 300 of 500 weights: alone for a of block 0 (200) and b of block 0; by kinds, for
    both a."""
    found = _by_hand({"m.0.a": (0.6, 0.1), "m.0.b": (0.5, 0.1), "m.1.a": (0.2, 0.1), "m.1.b": (0.2, 0.1)})
    alone, kinds = (plan_for_budget(found, 3.2, together) for together in (None, of_a_kind))
    assert [one for one, text in alone.choice.items() if text == "w:int4/channel"] == ["m.0.a", "m.0.b"]
    assert [one for one, text in kinds.choice.items() if text == "w:int4/channel"] == ["m.0.a", "m.1.a"]


def test_a_budget_that_only_torn_layers_meet_is_refused() -> None:
    """q is smallest under one scheme, k under the other: together they take more than the sum of both least."""
    found = _by_hand({"m.q_proj": (0.1, 0.1), "m.k_proj": (0.1, 0.1)})
    found = replace(found, bits={**found.bits, ("m.k_proj", "w:int2/channel"): 9.0})
    with pytest.raises(ValueError, match=r"a budget of 2.9 bits per weight cannot be met: .* takes 4; raise"):
        plan_for_budget(found, 2.9)


def test_a_plan_names_every_layer(found: Sensitivity) -> None:
    chosen = plan_for_budget(found, 3.4)
    assert len(set(chosen.choice.values())) == 2
    assert chosen.bits_per_weight <= 3.4
    plan = Plan.parse(str(chosen.plan))
    for layer, text in chosen.choice.items():
        assert str(plan.scheme_for(layer)) == text
    plan.require_layers(found.layers)
    assert plan_of({"a.b": "W8A8"}) == Plan.parse("W8A8")


@pytest.mark.parametrize(
    ("schemes", "sentence"),
    [
        ([], "there is no scheme to measure"),
        (["float"], "float quantizes nothing, so no layer can hurt"),
        (["w:int4/channel", "w:int4/channel,skip=down_proj"], "give all the same skip="),
    ],
)
def test_what_cannot_be_measured_is_told(
    tiny_lm: LoadedModel, tokens: torch.Tensor, schemes: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        sensitivity(tiny_lm.model, schemes, tokens[:1])


def test_all_experts_of_a_block_are_one_layer() -> None:
    """48 layers of experts are two here; their KL is that of the plan which quantizes them all, and a plan for a budget
    names them so."""
    model = taken_apart(made("Mixtral"))
    text, read = "w:int4/group16", torch.arange(3, 63).view(3, 20)
    costs = layer_costs(model, text, read, all_but=True)
    experts = [f"model.layers.{block}.mlp.experts" for block in range(2)]
    assert [one for one in costs.alone if "experts" in one] == experts
    assert all(one.endswith(("proj", "experts")) for one in costs.alone)
    for measured, plan in (
        (costs.alone, f"float@layers.1.mlp.experts={text}"),
        (costs.all_but, f"{text}@layers.1.mlp.experts=float"),
    ):
        quantized, _ = quantize_model(model, plan)
        assert measured[experts[1]] == pytest.approx(compare(model, quantized, read).kl, rel=1e-3)
    shapes = linear_shapes(model)
    inside = [rows * columns for name, (rows, columns) in shapes.items() if name.startswith(experts[0])]
    assert costs.weights[experts[0]] == sum(inside)
    assert costs.bits[experts[0]] == pytest.approx(4 + 16 / 16)
    found = sensitivity(model, ["w:int4/group16", "w:int8/channel"], read)
    plan = plan_for_budget(found, 6.5).plan
    assert all(plan.scheme_for(name) for name in shapes if name != "lm_head")
