"""Which Linears may be quantized: found by what the tokens of a text do, not by names."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from quantcore.model import linears as known
from quantcore.model.linears import every_linear, head_of, left_float, linears, why_float
from quantcore.model.probe import is_a_product
from quantcore.scheme.plan import Plan

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.1}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def made(kind: str, **more: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **SPECIAL, **more})
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def reasons(model: nn.Module) -> dict[str, str]:
    """The reasons of the second block's Linears, by their names in it, and of what is outside under its name."""
    able, every = linears(model), every_linear(model)
    found = why_float(model)
    return {name.rpartition("1.mixer.")[2]: found[f"{name}.weight"] for name in every if name not in able}


def test_a_weight_that_other_code_reads_stays_float() -> None:
    """Mamba multiplies with dt_proj's weight itself, and asks lm_head's weight for its type."""
    model = made("Mamba", state_size=4, time_step_rank=4)
    assert reasons(model) == {
        "backbone.layers.0.mixer.dt_proj": known.READ_DIRECTLY,
        "dt_proj": known.READ_DIRECTLY,
        "lm_head": known.READ_DIRECTLY,
    }
    assert {name.rpartition(".")[2] for name in linears(model)} == {"in_proj", "x_proj", "out_proj"}
    assert "backbone.layers.0.mixer.dt_proj.weight" in left_float(model)


def test_a_linear_that_is_given_another_width_is_told() -> None:
    """The probe's Linears multiply nothing, and still refuse what a product would: such a model runs nowhere."""
    model = made("Llama", num_attention_heads=2, num_key_value_heads=1, intermediate_size=32)
    assert linears(model)
    model = made("Llama", num_attention_heads=2, num_key_value_heads=1, intermediate_size=32)
    model.model.layers[1].mlp.down_proj = nn.Linear(24, 16, bias=False)
    assert not linears(model)
    with pytest.raises(ValueError, match=r"'model.layers.1.mlp.down_proj' is given 32 numbers and takes 24"):
        known.require_plan(model, Plan.parse("W8A8"))


def test_the_answer_needs_no_weights_and_leaves_the_model_alone() -> None:
    model = made("Mamba", state_size=4, time_step_rank=4)
    kinds = [type(module) for module in model.modules()]
    tokens = torch.arange(3, 11)[None]
    before = model(tokens).logits
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(model.config)
    assert list(linears(model)) == list(linears(empty))
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(model(tokens).logits, before)


def test_routers_stay_float_and_say_so() -> None:
    model = made(
        "Qwen2Moe", num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8,
    )  # fmt: skip
    gates = [name for name in every_linear(model) if name.endswith("shared_expert_gate")]
    assert len(gates) == 2
    assert all(why_float(model)[f"{name}.weight"] == known.ROUTER for name in gates)
    assert all("shared_expert_gate" not in name for name in linears(model))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class ByHand(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y, y.softmax(-1)


@pytest.mark.parametrize(("kind", "plain"), [(nn.Linear, True), (ByHand, True), (Doubled, False), (Pair, False)])
def test_a_forward_of_its_own_counts_by_what_it_computes(kind: type[nn.Linear], plain: bool) -> None:
    layer = kind(32, 8)
    assert is_a_product(layer) is plain
    assert (layer.in_features, layer.weight.shape) == (32, (8, 32))


def test_a_class_that_computes_something_else_stays_float() -> None:
    model = made("Llama", num_attention_heads=2, num_key_value_heads=1, intermediate_size=32)
    model.model.layers[0].mlp.up_proj.__class__ = Doubled
    assert why_float(model) == {"model.layers.0.mlp.up_proj.weight": known.ANOTHER_FORWARD.format("Doubled")}


def test_what_no_token_of_a_text_reaches_stays_float() -> None:
    model = made("Llama", num_attention_heads=2, num_key_value_heads=1, intermediate_size=32)
    model.tower = nn.ModuleList(nn.Linear(64, 64) for _ in range(9))  # more numbers than the decoder has
    assert set(why_float(model).values()) == {known.NOT_REACHED}
    assert set(why_float(model)) == {f"tower.{place}.weight" for place in range(9)}


@pytest.mark.parametrize(("kind", "head"), [("GPTNeoX", "lm_head"), ("Rwkv", "head"), ("BioGpt", "output_projection")])
def test_the_head_is_known_whatever_it_is_called(kind: str, head: str) -> None:
    sizes = {"num_attention_heads": 2, "intermediate_size": 32}
    assert head_of(made(kind, **sizes)) == head
    assert head_of(nn.Linear(2, 2)) is None
