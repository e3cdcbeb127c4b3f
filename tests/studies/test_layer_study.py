"""One layer under a scheme: every number by hand, and the laws between them."""

import math

import pytest
import torch
from torch import nn

from quantcore.model.linears import linear_named
from quantcore.model.loading import LoadedModel
from quantcore.numbers.affine import QParams
from quantcore.pipeline.calibration import calibrate, layer_inputs
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.layers import quantize_linear, static_qparams
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import LayerStudy, layer_study
from quantcore.text.windows import token_windows

LOUD = "model.layers.1.mlp.down_proj"
TEXT = "The keeper lit the lamp. A number can be kept with fewer bits, and the storm came in before the stairs." * 4


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight.data = torch.tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer.requires_grad_(False)


@pytest.fixture(scope="module")
def x(tiny_lm: LoadedModel) -> torch.Tensor:
    return layer_inputs(tiny_lm.model, token_windows(tiny_lm.tokenizer, TEXT, 64), LOUD).flatten(0, 1)


def study(lm: LoadedModel, x: torch.Tensor, scheme: str) -> LayerStudy:
    parsed = Scheme.parse(scheme)
    stats = calibrate(lm.model, token_windows(lm.tokenizer, TEXT, 64), [LOUD], hessian=False)
    return layer_study(linear_named(lm.model, LOUD), x, parsed, static_qparams(parsed.activations, stats[LOUD]))


def test_weights_by_hand() -> None:
    # int2, symmetric, one scale per row: absmax / 1.5. Row 0: scale 2, 3/2 = 1.5 -> 2 -> clamped to 1 -> 2; 1/2 -> 0.
    # Row 1: scale 1, 1 -> 1, -1.5 -> -2. So W_hat = [[2, 0], [1, -2]], the error [[-1, -1], [0, -0.5]].
    layer = linear([[3.0, 1.0], [1.0, -1.5]], bias=[10.0, 0.0])
    result = layer_study(layer, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), Scheme.parse("w:int2/channel"))
    # y = [[13, 1], [12, -3]], y_hat = [[12, 1], [10, -4]]: errors [[-1, 0], [-2, -1]], sum of squares 6 of 323.
    assert result.shape == (2, 2)
    assert result.tokens == 2
    assert result.weight.mse == pytest.approx((1 + 1 + 0.25) / 4)
    assert result.weight.max_error == 1
    assert result.output.sqnr_db == pytest.approx(10 * math.log10(323 / 6))
    assert result.output.relative_mse == pytest.approx(6 / 323)
    assert result.output.max_error == 2
    assert result.channel_error.tolist() == pytest.approx([math.sqrt(5 / 2), math.sqrt(1 / 2)])
    assert result.channel_size.tolist() == pytest.approx([math.sqrt(313 / 2), math.sqrt(10 / 2)])
    assert result.token_error.tolist() == pytest.approx([math.sqrt(1 / 170), math.sqrt(5 / 153)])
    # 2 bits a code and a 16-bit scale for each row of two: 10 bits a weight; the bias takes 2 x 16 bits.
    assert result.bits_per_weight == 10
    assert result.checkpoint_bytes == (4 * 10 + 32) / 8
    assert result.held_bytes == 2 * 1 + 2 * 4  # one byte of codes a row, a float32 scale a row
    assert result.input.sqnr_db == math.inf
    assert result.static_range is None
    assert result.outside is None


def test_static_activations_by_hand() -> None:
    # int4 at scale 0.5 stands for -4 ... 3.5. Of [1, 5, -4.5, 0.25]: 1; 5 -> 3.5; -4.5 -> -4; 0.25 -> 0 (half to even).
    layer = linear([[1.0, 0.0], [0.0, 1.0]])
    static = QParams(torch.tensor([[0.5]]), None)
    x = torch.tensor([[1.0, 5.0], [-4.5, 0.25]])
    result = layer_study(layer, x, Scheme.parse("a:int4/tensor/static"), static)
    assert result.static_range == (-4, 3.5)
    assert result.outside == 0.5
    assert result.input.max_error == 1.5
    assert result.token_error.tolist() == pytest.approx(
        [1.5 / math.sqrt(26), math.hypot(0.5, 0.25) / math.hypot(4.5, 0.25)]
    )
    assert result.bits_per_weight == 16
    assert result.held_bytes == 16
    assert result.weight.sqnr_db == math.inf


def test_a_zero_point_shifts_the_static_range() -> None:
    # x_hat = 0.5 (q + 8) with q of -8 ... 7: 0 ... 7.5.
    static = QParams(torch.tensor([[0.5]]), torch.tensor([[-8.0]]))
    result = layer_study(linear([[1.0]]), torch.tensor([[7.0]]), Scheme.parse("a:int4/tensor/asym/static"), static)
    assert result.static_range == (0, 7.5)
    assert (result.outside, result.output.max_error) == (0, 0)


def test_the_output_is_that_of_the_quantized_layer(tiny_lm: LoadedModel, x: torch.Tensor) -> None:
    scheme = Scheme.parse("w:int4/group32,a:int8/token/dynamic")
    layer = linear_named(tiny_lm.model, LOUD)
    with torch.inference_mode():
        error = quantize_linear(layer, scheme)(x) - layer(x)
    result = layer_study(layer, x, scheme)
    assert torch.equal(result.token_error, error.norm(dim=-1) / layer(x).norm(dim=-1))
    assert torch.equal(result.channel_error, error.square().mean(0).sqrt())


def test_the_report_agrees_with_that_of_a_whole_model(tiny_lm: LoadedModel, x: torch.Tensor) -> None:
    scheme = "w:int4/channel,a:int8/token/dynamic"
    tokens = token_windows(tiny_lm.tokenizer, TEXT, 64)
    report = next(r for r in quantize_model(tiny_lm.model, scheme, tokens)[1] if r.name == LOUD)
    result = study(tiny_lm, x, scheme)
    assert result.output.sqnr_db == pytest.approx(report.output_sqnr_db, rel=1e-5)
    assert result.weight.sqnr_db == report.weight_sqnr_db
    assert (result.bits_per_weight, result.held_bytes) == (report.bits_per_weight, report.held_bytes)


def test_either_part_alone(tiny_lm: LoadedModel, x: torch.Tensor) -> None:
    both = study(tiny_lm, x, "w:int4/channel,a:int4/token/dynamic")
    weights = study(tiny_lm, x, "w:int4/channel")
    activations = study(tiny_lm, x, "a:int4/token/dynamic")
    assert both.weights_alone == weights.output
    assert both.activations_alone == activations.output
    assert both.weights_token_error == pytest.approx(float(weights.token_error.median()))
    assert both.activations_token_error == pytest.approx(float(activations.token_error.median()))
    assert activations.weights_token_error == weights.activations_token_error == 0
    assert weights.activations_alone.sqnr_db == activations.weights_alone.sqnr_db == math.inf
    assert both.output.relative_mse > max(weights.output.relative_mse, activations.output.relative_mse)


def test_float_changes_nothing(tiny_lm: LoadedModel, x: torch.Tensor) -> None:
    result = study(tiny_lm, x, "float")
    assert result.output.sqnr_db == result.weight.sqnr_db == result.input.sqnr_db == math.inf
    assert result.token_error.count_nonzero() == 0
    assert torch.equal(result.weight_before.counts, result.weight_after.counts)


def test_histograms_count_every_weight(tiny_lm: LoadedModel, x: torch.Tensor) -> None:
    result = study(tiny_lm, x, "w:int4/tensor")
    weights = 64 * 128
    for counted in (result.weight_before, result.weight_after, result.weight_error):
        assert int(counted.counts.sum()) == weights
    assert int((result.weight_after.counts > 0).sum()) <= 16 < int((result.weight_before.counts > 0).sum())
    # One weight of 1.5 sets the scale to 1.5 / 7.5 = 0.2: it is clamped to 1.4, the others err by half a step at most.
    assert result.weight_error.reach == 0.125
    assert result.weight.max_error == pytest.approx(0.1, abs=1e-6)


def test_an_outlier_costs_a_static_range_more(tiny_lm: LoadedModel, x: torch.Tensor) -> None:
    static = study(tiny_lm, x, "w:int8/channel,a:int8/tensor/static")
    dynamic = study(tiny_lm, x, "w:int8/channel,a:int8/token/dynamic")
    assert static.outside == 0  # calibrated on the very text
    assert static.input.sqnr_db < dynamic.input.sqnr_db
    clipped = study(tiny_lm, x, "w:int8/channel,a:int8/tensor/static/p99")
    assert 0 < clipped.outside < 0.03
    assert clipped.static_range[1] < static.static_range[1]


def test_a_layer_of_zeros_is_exact() -> None:
    result = layer_study(linear([[0.0, 0.0]]), torch.zeros(2, 2), Scheme.parse("w:int4/channel,a:int8/token/dynamic"))
    assert result.output.sqnr_db == math.inf
    assert result.token_error.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_16_bits_is_measured_in_float32(dtype: torch.dtype) -> None:
    layer = linear([[1.0, -0.5], [0.25, 2.0]], bias=[1.0, 0.0])
    x = torch.randn(8, 2)
    expected = layer_study(layer, x, Scheme.parse("w:int4/channel,a:int8/token/dynamic"))
    half = layer_study(layer.to(dtype), x, Scheme.parse("w:int4/channel,a:int8/token/dynamic"))
    assert half.output == expected.output
    assert layer_study(layer, x, Scheme.parse("float")).held_bytes == 4 * 2


@pytest.mark.parametrize("scheme", ["w:int4/channel", "a:int8/token/dynamic", "float"])
def test_damage_is_told(scheme: str) -> None:
    damaged = linear([[1.0, float("nan")]])
    with pytest.raises(ValueError, match="NaN or Inf"):
        layer_study(damaged, torch.ones(1, 2), Scheme.parse(scheme))
    with pytest.raises(ValueError, match="the layer's input holds NaN or Inf|to quantize hold NaN or Inf"):
        layer_study(linear([[1.0, 2.0]]), torch.tensor([[1.0, math.inf]]), Scheme.parse(scheme))


def test_a_group_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="group3 does not divide in_features=4; try group2"):
        layer_study(linear([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 4), Scheme.parse("w:int4/group3"))


def test_static_without_a_range() -> None:
    with pytest.raises(ValueError, match="static activations need the range recorded in calibration"):
        layer_study(linear([[1.0]]), torch.ones(1, 1), Scheme.parse("a:int8/tensor/static"))
