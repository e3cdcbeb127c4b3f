"""GPTQ over a whole model: a layer's codes are those of its own Hessian, behind the blocks quantized before."""

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, Qwen3Config, Qwen3ForCausalLM

from quantcore import calibrate, compare, dequantize, quantize_model
from quantcore.matmul.size import quantized_linears
from quantcore.methods.gptq import CholeskyError, gptq_quantize
from quantcore.model.linears import block_names, linears
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.layers import quantize_linear
from quantcore.scheme.scheme import Scheme


@pytest.fixture
def text() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 200, (40, 32))


def test_first_block_sees_the_float_model_and_the_last_the_quantized_one(
    tiny_lm: LoadedModel, text: torch.Tensor
) -> None:
    scheme = Scheme.parse("w:int3/group32,gptq")
    assert scheme.weights is not None
    quantized, _ = quantize_model(tiny_lm.model, scheme, calibration=text)
    layers, copies = linears(tiny_lm.model), quantized_linears(quantized)
    half, _ = quantize_model(tiny_lm.model, "w:int3/group32,gptq,skip=lm_head,skip=layers.1", calibration=text)
    for seen_by, block in ((tiny_lm.model, "layers.0"), (half, "layers.1")):
        names = [name for name in layers if block in name]
        stats = calibrate(seen_by, text, names)
        for name in names:
            expected = gptq_quantize(layers[name].weight, stats[name].hessian, scheme.weights)
            assert torch.equal(copies[name].weight_hat(), dequantize(expected)), name
    float_stats = calibrate(tiny_lm.model, text)
    at_once, _ = quantize_model(tiny_lm.model, scheme, stats=float_stats, sequential=False)
    last = "model.layers.1.mlp.down_proj"
    expected = gptq_quantize(layers[last].weight, float_stats[last].hessian, scheme.weights)
    assert torch.equal(quantized_linears(at_once)[last].weight_hat(), dequantize(expected))
    assert not torch.equal(quantized_linears(at_once)[last].weight_hat(), copies[last].weight_hat())


@pytest.mark.parametrize("order", ["", "/actorder=weight", "/actorder=group"])
def test_better_than_rounding_on_every_layer_and_on_the_model(
    tiny_lm: LoadedModel, text: torch.Tensor, order: str
) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_lm.model.state_dict().items()}
    steps: list[float] = []
    quantized, reports = quantize_model(
        tiny_lm.model, f"w:int3/group32,gptq{order}", text, progress=lambda done, _: steps.append(done)
    )
    assert steps == pytest.approx([(k + 1) / 14 for k in range(14)])
    assert all(report.loss < report.rtn_loss for report in reports)
    assert all(report.damp == 0.01 and report.output_sqnr_db is not None for report in reports)
    rounded, _ = quantize_model(tiny_lm.model, "w:int3/group32")
    assert compare(tiny_lm.model, quantized, text).kl < compare(tiny_lm.model, rounded, text).kl
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_lm.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in tiny_lm.model.modules())


def test_mixed_plan_with_head_and_static_activations(tiny_lm: LoadedModel, text: torch.Tensor) -> None:
    most = "w:int4/group32,a:int8/tensor/static,gptq/actorder=weight,skip=none"
    plan = f"{most}@down_proj=w:int8/channel@layers.0.self_attn=float"
    quantized, reports = quantize_model(tiny_lm.model, plan, text)
    by_name = {report.name: report for report in reports}
    assert by_name["model.layers.1.mlp.down_proj"].scheme == "w:int8/channel"
    assert by_name["model.layers.1.mlp.down_proj"].loss is None
    assert by_name["lm_head"].loss < by_name["lm_head"].rtn_loss
    assert not any(name.startswith("model.layers.0.self_attn") for name in by_name)
    assert quantized_linears(quantized)["lm_head"].static_qparams is not None
    with pytest.raises(ValueError, match="no layer fits 'dwn_proj'"):
        quantize_model(tiny_lm.model, "W8A8@dwn_proj=float")


@pytest.mark.parametrize(
    "made",
    [
        lambda: OPTForCausalLM(
            OPTConfig(
                vocab_size=200, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4,
                word_embed_proj_dim=64,
            )
        ),
        lambda: Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=200, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16,
            )
        ),
    ],
    ids=["OPT", "Qwen3"],
)  # fmt: skip
def test_other_architectures(made, text: torch.Tensor) -> None:
    model = made().eval().requires_grad_(False)
    assert len(block_names(model)) == 2
    _, reports = quantize_model(model, "w:int3/group32,gptq", text)
    assert all(report.loss < report.rtn_loss for report in reports)


def test_what_is_refused(tiny_lm: LoadedModel, text: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="weighs errors with the layers' inputs, so it needs text"):
        quantize_model(tiny_lm.model, "w:int4/group32,gptq")
    layer = next(iter(linears(tiny_lm.model).values()))
    with pytest.raises(ValueError, match="q_proj: gptq needs the Hessian"):
        quantize_linear(layer, Scheme.parse("w:int4/group32,gptq"), name="q_proj")
    one_token = text[:1, :2]
    with pytest.raises(CholeskyError, match=r"layers '.*q_proj', '.*k_proj', '.*v_proj': .* use a larger damp"):
        quantize_model(tiny_lm.model, "w:int4/group32,gptq/damp=1e-09", one_token)


def test_cancel_changes_nothing(tiny_lm: LoadedModel, text: torch.Tensor) -> None:
    class Cancelled(Exception):
        pass

    def stop(done: float, _: str) -> None:
        if done > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        quantize_model(tiny_lm.model, "w:int4/group32,gptq", text, progress=stop)
    assert len(linears(tiny_lm.model)) == 15
    assert not any(module._forward_pre_hooks for module in tiny_lm.model.modules())


@pytest.mark.parametrize("scheme", ["NVFP4A16,gptq", "NVFP4A16"])
def test_layers_of_one_input_share_the_global_scale(tiny_lm: LoadedModel, text: torch.Tensor, scheme: str) -> None:
    """As vLLM needs it, which joins q, k and v, and gate and up: that of the loudest weight."""
    quantized, _ = quantize_model(tiny_lm.model, scheme, text)
    layers = quantized_linears(quantized)
    for together in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        names = [f"model.layers.1.{part}" for part in together]
        loudest = max(float(tiny_lm.model.get_submodule(name).weight.abs().max()) for name in names)
        found = {float(layers[name].global_scale) for name in names}
        assert len(found) == 1
        assert found.pop() == pytest.approx(448 * 6 / loudest, rel=1e-6)
        assert len({float(layers[name].scale.max()) for name in names}) > 1
