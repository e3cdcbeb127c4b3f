"""The estimate from a few backward passes is the KL that is measured at a run a layer."""

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from quantcore.measure.fisher import estimated_costs
from quantcore.measure.planning import plan_of
from quantcore.measure.sensitivity import Sensitivity, joined, sensitivity
from quantcore.model.loading import LoadedModel
from quantcore.text.windows import bundled_text, token_windows
from tests.model.test_architectures import fused
from tests.model.test_experts import made

SCHEMES = ["w:int4/group32", "w:int8/channel,a:int8/token/dynamic"]


def estimated(*asked: Any, **more: Any) -> Sensitivity:
    return joined(estimated_costs(*asked, **more))


@pytest.fixture(scope="module")
def tokens(tiny_lm: LoadedModel) -> Tensor:
    return token_windows(tiny_lm.tokenizer, bundled_text(), 32, limit=8 * 32)


def ranks(found: Sensitivity, direct: Sensitivity, scheme: str) -> float:
    layers = direct.layers
    return float(
        spearmanr([found.alone[one, scheme] for one in layers], [direct.alone[one, scheme] for one in layers]).statistic
    )


def test_it_is_the_kl_that_is_measured(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """Of each layer within the noise of 8 windows of 24 draws, sqrt(2 / 192) = 10%, and of what is left out beyond the
    second order; of all together closer."""
    shares: list[float] = []
    found = estimated(tiny_lm.model, SCHEMES, tokens, draws=24, progress=lambda share, _: shares.append(share))
    direct = sensitivity(tiny_lm.model, SCHEMES, tokens)
    assert (found.layers, found.schemes, found.tokens) == (direct.layers, direct.schemes, direct.tokens)
    assert (found.weights, found.bits) == (direct.weights, direct.bits)
    for scheme in found.schemes:
        assert ranks(found, direct, scheme) > 0.9
        assert found.whole[scheme] == pytest.approx(sum(direct.alone[one, scheme] for one in direct.layers), rel=0.15)
        for layer in found.layers:
            assert found.alone[layer, scheme] == pytest.approx(direct.alone[layer, scheme], rel=0.6)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_weight_that_is_stored_the_other_way_round() -> None:
    """GPT-2's Conv1D, square ones too, whose shape says nothing."""
    model, tokens = fused("GPT2"), torch.randint(3, 60, (6, 24))
    found = estimated(model, ["w:int3/group16"], tokens, draws=24)
    direct = sensitivity(model, ["w:int3/group16"], tokens)
    assert any(found.weights[one] == 32 * 32 for one in found.layers)
    for layer in found.layers:
        assert found.alone[layer, "w:int3/group16"] == pytest.approx(direct.alone[layer, "w:int3/group16"], rel=0.6)


def test_the_experts_of_a_block_are_one_layer() -> None:
    model, tokens = made("Mixtral"), torch.randint(3, 128, (6, 24))
    found = estimated(model, ["w:int4/group16"], tokens, draws=16)
    direct = sensitivity(model, ["w:int4/group16"], tokens)
    assert (found.layers, found.weights, found.bits) == (direct.layers, direct.weights, direct.bits)
    experts = [one for one in found.layers if one.endswith("experts")]
    assert len(experts) == 2
    for layer in experts:
        assert found.alone[layer, "w:int4/group16"] == pytest.approx(direct.alone[layer, "w:int4/group16"], rel=0.6)


def test_the_model_is_left_as_it_was(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    first = estimated(tiny_lm.model, SCHEMES[:1], tokens[:2], seed=5)
    assert not any(module._forward_hooks for module in tiny_lm.model.modules())
    assert all(parameter.grad is None for parameter in tiny_lm.model.parameters())
    again = estimated(tiny_lm.model, SCHEMES[:1], tokens[:2], seed=5)
    assert first.alone == again.alone
    assert first.alone != estimated(tiny_lm.model, SCHEMES[:1], tokens[:2], seed=6).alone


def test_what_cannot_be_asked(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    for schemes, draws, words in (
        ([], 1, "there is no scheme to measure"),
        (["float"], 1, "float quantizes nothing"),
        (["W8A16", "W8A16,skip=down_proj"], 1, "leaves other layers float"),
        (["W8A16"], 0, "0 draws of a window say nothing"),
    ):
        with pytest.raises(ValueError, match=words):
            estimated(tiny_lm.model, schemes, tokens[:1], draws=draws)
    with pytest.raises(ValueError, match="windows of 1 token predict nothing"):
        estimated(tiny_lm.model, SCHEMES, tokens[:, :1])


def test_a_layer_alone_in_a_smoothed_model(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """Its codes belong to the smoothed float model: in the other one they would be off by the channels' scales. Both
    ways say about the same, and less than without smoothing where the inputs have a loud channel."""
    plain = "w:int8/channel,a:int8/tensor/static"
    texts = [plain, f"{plain},smooth=0.7/all"]
    found = estimated(tiny_lm.model, texts, tokens, draws=6, calibration=tokens)
    direct = sensitivity(tiny_lm.model, texts, tokens, calibration=tokens)
    assert found.schemes == direct.schemes == tuple(texts)
    for layer in direct.layers:
        assert found.alone[layer, texts[1]] == pytest.approx(direct.alone[layer, texts[1]], rel=0.7)
    assert direct.whole[texts[1]] < direct.whole[plain]
    layer = "model.layers.0.mlp.gate_proj"
    assert direct.alone[layer, texts[1]] < direct.alone[layer, plain]
    with pytest.raises(ValueError, match="transform the whole model in different ways"):
        plan_of(dict(zip(direct.layers, texts * 7, strict=True)))
