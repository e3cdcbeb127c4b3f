"""A mixture on the road: what its experts see, what they become, and what is said of them."""

import pytest
import torch
from torch import Tensor

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.methods.gptq import gptq_quantize
from quantcore.model.experts import Experts, taken_apart
from quantcore.model.held import held
from quantcore.model.linears import linears
from quantcore.numbers.qtensor import quantize
from quantcore.pipeline import road
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.calibration import NotReached, calibrate, layer_inputs, tokens_of_layer
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.hessians import SharedHessian, hessians_of
from quantcore.pipeline.layers import LayerReport
from quantcore.scheme.scheme import Scheme
from tests.model.test_experts import made

GPTQ = "w:int4/group16,gptq"
STATIC = "w:int8/channel,a:int8/tensor/static"
PLACE = "model.layers.0.mlp.experts"


def text(rows: int = 6, length: int = 20) -> Tensor:
    return torch.randint(3, 128, (rows, length))


def few() -> Tensor:
    """A text of two equal tokens: two of four experts are left without any in the first block."""
    return torch.tensor([[5, 5]])


def of_experts(reports: list[LayerReport]) -> dict[str, LayerReport]:
    return {one.name: one for one in reports if ".experts." in one.name and one.scheme != "float"}


@pytest.mark.parametrize("scheme", [GPTQ, STATIC])
def test_every_report_says_how_many_tokens_came(scheme: str) -> None:
    """Each of the 120 tokens goes to two of the four experts of each of the two blocks."""
    _, reports = quantize_model(made("Mixtral"), scheme, calibration=text())
    known = of_experts(reports)
    assert len(known) == 2 * 4 * 3
    for part in ("w1", "w2", "w3"):
        counts = [one.tokens for name, one in known.items() if name.endswith(part)]
        assert sum(filter(None, counts)) == 2 * 2 * 120
    assert {one.tokens for one in reports if "q_proj" in one.name} == {120}
    assert {one.tokens for one in quantize_model(made("Mixtral"), "w:int4/group16")[1]} == {None}
    _, every = quantize_model(made("Mixtral"), f"{scheme},experts=all", calibration=text())
    assert {one.tokens for one in of_experts(every).values()} == {120}


def test_an_experts_hessian_is_of_its_own_tokens() -> None:
    """Block 0 comes behind nothing that is quantized but its own float attention."""
    model, tokens = taken_apart(made("Mixtral")), text()
    quantized, _ = quantize_model(model, GPTQ, calibration=tokens)
    scheme = Scheme.parse(GPTQ)
    assert scheme.weights is not None
    for name in (f"{PLACE}.1.w1", f"{PLACE}.2.w2"):
        x = layer_inputs(model, tokens, name)[0]
        assert len(x) < tokens.numel()
        expected = gptq_quantize(linears(model)[name].weight, x.T @ x, scheme.weights, None)
        layer = quantized.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        assert layer.qweight is not None
        assert (layer.qweight.q != expected.q).float().mean() < 0.01  # sums in another order


def test_hessians_of_experts_that_are_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does: every expert and input has the sum over its tokens that the loop over experts finds."""
    model, tokens = taken_apart(made("Mixtral")).to(torch.bfloat16), text()
    wanted = [name for name in linears(model) if f"{PLACE}." in name and not name.startswith(f"{PLACE}.2.")]
    inside = held(model)
    block = inside.blocks[0]

    def taken() -> dict[tuple[str, ...], SharedHessian]:
        found = hessians_of(model.get_submodule(block), block, wanted, BlockWalk(inside, tokens))
        return {tuple(sorted(one.layers)): one for one in found}

    alone = taken()
    monkeypatch.setattr(Experts, "_goes_grouped", lambda *_: True)
    together = taken()
    assert together.keys() == alone.keys()
    assert len(together) == 3 * 2
    for names, one in together.items():
        assert one.tokens == alone[names].tokens
        assert (one.hessian - alone[names].hessian).abs().max() < 0.02 * alone[names].hessian.abs().max()
    assert model.get_submodule(PLACE).sorted_seen == {}


def test_all_tokens_are_a_plain_hessian_over_all() -> None:
    """With experts=all each expert of a block has X^T X of the whole block's tokens."""
    model, tokens = taken_apart(made("Mixtral")), text()
    router = "model.layers.0.mlp.gate"
    seen: list[Tensor] = []
    handle = model.get_submodule(router).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(tokens, use_cache=False)
    handle.remove()
    x = seen[0].reshape(-1, 32)
    stats = calibrate(model, tokens, [f"{PLACE}.{one}.w3" for one in range(4)], every=True)
    for found in stats.values():
        assert found.tokens == 120
        assert found.hessian is not None
        torch.testing.assert_close(found.hessian, x.T @ x, rtol=1e-4, atol=1e-4)
    routed = calibrate(model, tokens, [f"{PLACE}.{one}.w3" for one in range(4)])
    total = sum(one.hessian for one in routed.values() if one.hessian is not None)
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, 2 * x.T @ x, rtol=1e-4, atol=1e-4)  # each token is seen by two


def test_one_expert_alone_is_a_dense_layer() -> None:
    import transformers

    from tests.model.test_experts import KINDS

    one = transformers.MixtralConfig(**{**KINDS["Mixtral"], "num_local_experts": 1, "num_experts_per_tok": 1})
    model = taken_apart(transformers.AutoModelForCausalLM.from_config(one).eval().requires_grad_(False))
    llama = transformers.LlamaConfig(
        **{key: value for key, value in KINDS["Mixtral"].items() if "local" not in key and "per_tok" not in key},
        rms_norm_eps=one.rms_norm_eps,
        rope_parameters=one.rope_parameters,
    )
    dense = transformers.AutoModelForCausalLM.from_config(llama).eval().requires_grad_(False)
    names = {"experts.0.w1": "gate_proj", "experts.0.w3": "up_proj", "experts.0.w2": "down_proj"}
    held = {}
    for name, tensor in model.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        held[name] = tensor
    dense.load_state_dict({name: held[name] for name in dense.state_dict()})
    tokens = text()
    torch.testing.assert_close(dense(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)
    for scheme in (GPTQ, STATIC):
        ours, theirs = (quantize_model(each, scheme, calibration=tokens)[0] for each in (model, dense))
        torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["Mixtral", "GptOss", "Llama4Text"])
def test_the_quantized_model_is_the_float_one_with_the_rounded_weights(kind: str) -> None:
    model, tokens = taken_apart(made(kind)), text()
    quantized, reports = quantize_model(model, "w:int4/channel,skip=router,skip=lm_head")
    assert of_experts(reports)
    rounded = taken_apart(made(kind))
    rounded.load_state_dict(model.state_dict())
    for name, layer in quantized_linears(quantized).items():
        rounded.get_parameter(f"{name}.weight").copy_(layer.weight_hat())
    torch.testing.assert_close(quantized(tokens).logits, rounded(tokens).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(quantized(tokens).logits, model(tokens).logits, atol=1e-3)


def test_an_expert_that_saw_nothing_is_rounded_and_said_so() -> None:
    model = taken_apart(made("Mixtral"))
    quantized, reports = quantize_model(model, GPTQ, few(), calibration=few())
    unseen = {name: one for name, one in of_experts(reports).items() if one.tokens == 0}
    assert unseen
    scheme = Scheme.parse(GPTQ)
    assert scheme.weights is not None
    for name, one in unseen.items():
        layer = quantized.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        assert layer.qweight is not None
        assert torch.equal(layer.qweight.q, quantize(linears(model)[name].weight, scheme.weights).q)
        assert one.scheme == "w:int4/group16"
        assert one.output_sqnr_db is None
        assert one.notes == (
            "no token of the calibration text reached it: rounded to nearest; read more text, or say experts=all",
        )
    scarce = [one for one in of_experts(reports).values() if one.tokens]
    assert all("only" in one.notes[0] and "fewer than its" in one.notes[0] for one in scarce if one.tokens == 1)
    assert torch.isfinite(quantized(text()).logits).all()
    _, every = quantize_model(model, f"{GPTQ},experts=all", calibration=text())
    assert not any(one.notes for one in of_experts(every).values())


def test_a_static_range_of_an_expert_that_saw_nothing_is_its_neighbours() -> None:
    model = taken_apart(made("Mixtral"))
    quantized, reports = quantize_model(model, STATIC, calibration=few())
    known = of_experts(reports)
    for part in ("w1", "w2"):
        names = [f"{PLACE}.{one}.{part}" for one in range(4)]
        scales = {name: float(quantized.get_submodule(name).input_scale) for name in names}
        seen = [scales[name] for name in names if known[name].tokens]
        unseen = [scales[name] for name in names if known[name].tokens == 0]
        assert unseen
        assert set(unseen) == {max(seen)}
    said = {note for one in known.values() if one.tokens == 0 for note in one.notes}
    assert len(said) == 1
    assert "its range is that of the block's other experts" in said.pop()
    assert torch.isfinite(quantized(text()).logits).all()


def test_recorded_ranges_may_lack_an_expert_that_saw_nothing() -> None:
    """`calibrate` names no expert without tokens; the range is its neighbours' here, too, and the report says so."""
    model = taken_apart(made("Mixtral"))
    stats = calibrate(model, few(), hessian=False)
    quantized, reports = quantize_model(model, STATIC, stats=stats)
    _, expected = quantize_model(model, STATIC, calibration=few())
    assert {one.name: (one.tokens, one.notes) for one in reports} == {
        one.name: (one.tokens, one.notes) for one in expected
    }
    assert any("its range is that of the block's other experts" in note for one in reports for note in one.notes)
    assert torch.isfinite(quantized(text()).logits).all()


def test_what_enters_one_expert_and_which_tokens_they_are() -> None:
    model, tokens = taken_apart(made("Mixtral")), text()
    name = f"{PLACE}.2.w1"
    x, rows = layer_inputs(model, tokens, name), tokens_of_layer(model, tokens, name)
    assert x.shape == (1, len(rows), 32)
    everything: list[Tensor] = []
    experts = model.get_submodule(PLACE)
    assert isinstance(experts, Experts)
    handle = experts.register_forward_pre_hook(lambda _, inputs: everything.append(inputs[0]))
    model(tokens, use_cache=False)
    handle.remove()
    torch.testing.assert_close(x[0], everything[0].view(-1, 32)[rows])
    assert experts.given == {}
    unseen = min(
        set(range(4)) - {int(name.split(".")[-2]) for name in calibrate(model, few(), hessian=False) if PLACE in name}
    )
    with pytest.raises(NotReached, match=rf"no token reached '{PLACE}.{unseen}.w1', of 2 that were read; read more"):
        layer_inputs(model, few(), f"{PLACE}.{unseen}.w1")


def test_hessians_that_do_not_fit_at_once_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory at all: what is outside of the experts, then one expert after another, and the same codes."""
    model, tokens = taken_apart(made("Mixtral")), text()
    whole, expected = quantize_model(model, GPTQ, calibration=tokens)
    passes: list[int] = []
    taken = road.hessians_of
    monkeypatch.setattr(road, "hessians_of", lambda *asked: (passes.append(len(asked[2])), taken(*asked))[1])
    monkeypatch.setattr("quantcore.pipeline.hessians.HESSIAN_SHARE", 0.0)
    found, reports = quantize_model(model, GPTQ, calibration=tokens)
    assert passes == [4, 3, 3, 3, 3, 4, 3, 3, 3, 3]
    assert [one.tokens for one in reports] == [one.tokens for one in expected]
    for name, layer in quantized_linears(whole).items():
        other = quantized_linears(found)[name]
        assert layer.qweight is not None
        assert other.qweight is not None
        assert torch.equal(layer.qweight.q, other.qweight.q)
