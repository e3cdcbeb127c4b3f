"""A quantized copy: right layers replaced, original untouched, every loss reported, bad input named."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quantcore import calibrate, compare, dequantize, fake_quantize, quantize, quantize_model
from quantcore.export.checkpoint import export_checkpoint
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import bits_per_weight, checkpoint_bytes, quantized_linears
from quantcore.measure.evaluate import perplexity
from quantcore.model.linears import linears
from quantcore.model.loading import LoadedModel
from quantcore.numbers.distance import tensor_error
from quantcore.pipeline.convert import quantized_copy
from quantcore.scheme.scheme import Scheme


@pytest.fixture
def tokens() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 200, (6, 24))


def test_replaces_all_but_the_skipped(tiny_lm: LoadedModel) -> None:
    model, reports = quantize_model(tiny_lm.model, "w:int4/group32,skip=lm_head,skip=layers.1")
    quantized = quantized_linears(model)
    assert [report.name for report in reports] == list(quantized)
    assert all(name.startswith("model.layers.0.") for name in quantized)
    assert len(quantized) == 7
    assert set(linears(model)) == set(linears(tiny_lm.model)) - set(quantized)


def test_original_is_untouched_and_shares_its_float_tensors(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_lm.model.state_dict().items()}
    model, _ = quantize_model(tiny_lm.model, "W8A8", tokens)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_lm.model.state_dict().items())
    assert not any(isinstance(module, QuantLinear) for module in tiny_lm.model.modules())
    assert model.model.embed_tokens.weight is tiny_lm.model.model.embed_tokens.weight


def test_codes_are_those_of_quantize(tiny_lm: LoadedModel) -> None:
    model, _ = quantize_model(tiny_lm.model, "w:int4/group32/asym")
    spec = Scheme.parse("w:int4/group32/asym").weights
    for name, layer in quantized_linears(model).items():
        assert torch.equal(layer.weight_hat(), dequantize(quantize(linears(tiny_lm.model)[name].weight, spec)))


def test_float_scheme_changes_nothing(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    model, reports = quantize_model(tiny_lm.model, "float", tokens)
    assert reports == []
    report = compare(tiny_lm.model, model, tokens)
    assert (report.kl, report.top1_agreement) == (0.0, 1.0)
    assert report.perplexity == report.float_perplexity == perplexity(tiny_lm.model, tokens)


def test_reports_measure_what_they_say(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    _, reports = quantize_model(tiny_lm.model, "w:int4/group32,a:int8/token/dynamic", tokens)
    report = next(r for r in reports if r.name == "model.layers.1.mlp.down_proj")
    weight = linears(tiny_lm.model)[report.name].weight
    spec = Scheme.parse("w:int4/group32").weights
    assert report.shape == tuple(weight.shape)
    assert report.bits_per_weight == 4.5
    assert report.weight_sqnr_db == tensor_error(weight, fake_quantize(weight, spec)).sqnr_db
    seen: list[torch.Tensor] = []
    hook = linears(tiny_lm.model)[report.name].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tiny_lm.model(tokens)
    hook.remove()
    x_hat = fake_quantize(seen[0], Scheme.parse("a:int8/token/dynamic").activations)
    y, y_hat = seen[0] @ weight.T, x_hat @ fake_quantize(weight, spec).T
    assert report.output_sqnr_db == pytest.approx(tensor_error(y, y_hat).sqnr_db, abs=1e-3)
    each = [tensor_error(*pair).sqnr_db for pair in zip(y, y_hat, strict=True)]
    assert report.output_sqnr_windows == pytest.approx((min(each), max(each)), abs=1e-3)


def test_more_bits_lose_less(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    kl = [
        compare(tiny_lm.model, quantize_model(tiny_lm.model, f"w:int{b}/channel")[0], tokens).kl for b in (2, 3, 4, 8)
    ]
    assert kl[0] > kl[1] > kl[2] > kl[3] > 0


def test_static_freezes_the_recorded_range(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    scheme = "w:int8/channel,a:int8/tensor/static"
    stats = calibrate(tiny_lm.model, tokens, hessian=False)
    model, _ = quantize_model(tiny_lm.model, scheme, tokens)
    again, _ = quantize_model(tiny_lm.model, scheme, stats=stats)
    name = "model.layers.0.mlp.down_proj"
    absmax = float(stats[name].channel_absmax.max())
    for copy in (model, again):
        assert quantized_linears(copy)[name].static_qparams.scale.item() == pytest.approx(absmax / 127.5)


def test_static_momentum_is_the_one_asked_for(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    scales = []
    for ema in ("ema0.5", "ema1"):
        model, _ = quantize_model(tiny_lm.model, f"a:int8/tensor/static/{ema}", tokens)
        scales.append([layer.static_qparams.scale.item() for layer in quantized_linears(model).values()])
    assert scales[0] != scales[1]


def test_bytes_and_bits_by_hand(tiny_lm: LoadedModel) -> None:
    model, _ = quantize_model(tiny_lm.model, "w:int4/group32")
    inside = sum(layer.weight.numel() for name, layer in linears(tiny_lm.model).items() if name != "lm_head")
    outside = sum(p.numel() for p in tiny_lm.model.parameters()) - inside
    assert bits_per_weight(model) == 4.5
    assert checkpoint_bytes(tiny_lm.model) == 2 * (inside + outside)
    assert checkpoint_bytes(model) == inside * 4.5 / 8 + 2 * outside


class TestBadInput:
    def test_tile_that_does_not_divide_names_the_layer(self, tiny_lm: LoadedModel) -> None:
        with pytest.raises(ValueError, match=r"group48 does not divide model.layers.0.self_attn.q_proj"):
            quantize_model(tiny_lm.model, "w:int4/group48")

    def test_nan_weight_names_the_layer(self, tiny_lm: LoadedModel) -> None:
        model, _ = quantize_model(tiny_lm.model, "float")
        layer = linears(model)["model.layers.1.mlp.up_proj"]
        damaged = layer.weight.detach().clone()
        damaged[2, 3] = float("nan")
        layer.weight = torch.nn.Parameter(damaged, requires_grad=False)
        with pytest.raises(ValueError, match=r"layer 'model.layers.1.mlp.up_proj': the values to quantize hold NaN"):
            quantize_model(model, "w:int4/channel")

    def test_all_zero_layer_works(self, tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
        model, _ = quantize_model(tiny_lm.model, "float")
        layer = linears(model)["model.layers.1.mlp.up_proj"]
        layer.weight = torch.nn.Parameter(torch.zeros_like(layer.weight), requires_grad=False)
        quantized, reports = quantize_model(model, "w:int4/group32/asym,a:int8/token/dynamic", tokens)
        report = next(r for r in reports if r.name == "model.layers.1.mlp.up_proj")
        assert report.weight_sqnr_db == float("inf")
        assert torch.isfinite(quantized(tokens).logits).all()

    def test_static_without_text(self, tiny_lm: LoadedModel) -> None:
        with pytest.raises(ValueError, match="freezes activation ranges, so it needs calibration tokens"):
            quantize_model(tiny_lm.model, "FP8")

    @pytest.mark.parametrize("again", ["W8A8", "W8A8,smooth=0.5", "w:int4/channel,gptq@layers.1=float"])
    @pytest.mark.parametrize("once", ["w:int4/channel", "w:int4/channel,skip=layers.0"])
    def test_codes_already(
        self, tiny_lm: LoadedModel, tokens: torch.Tensor, once: str, again: str, tmp_path: Path
    ) -> None:
        model = quantized_copy(tiny_lm.model, once)
        with pytest.raises(
            ValueError, match="layers of this LlamaForCausalLM are codes already .*; give the float model"
        ):
            quantize_model(model, again, tokens)
        with pytest.raises(ValueError, match="are codes already"):
            export_checkpoint(replace(tiny_lm, model=model), again, tmp_path / "out", tokens)

    def test_nothing_left(self, tiny_lm: LoadedModel) -> None:
        with pytest.raises(ValueError, match="skips every Linear of the model; shorten skip="):
            quantize_model(tiny_lm.model, "W8A16,skip=model,skip=lm_head")


def test_a_copy_alone_is_the_same_copy(tiny_lm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is worked out for reports that nobody reads."""
    text = torch.randint(300, (2, 32))
    expected, _ = quantize_model(tiny_lm.model, "w:int4/group32,gptq", calibration=text)
    monkeypatch.setattr("quantcore.pipeline.layers.signal_and_noise", lambda *_: pytest.fail("a report was asked for"))
    found = quantized_copy(tiny_lm.model, "w:int4/group32,gptq", text)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
