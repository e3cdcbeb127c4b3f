"""QuantLinear computes with exactly what its codes say."""

import pytest
import torch
from torch.nn import functional as F

from quantcore.matmul.codes import LEAST_TURNS
from quantcore.matmul.layers import QuantLinear
from quantcore.numbers.affine import QParams, choose_qparams
from quantcore.numbers.formats import FORMATS
from quantcore.numbers.qtensor import dequantize, fake_quantize, quantize
from quantcore.scheme.scheme import PRESETS, Scheme


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(128, 256), torch.randn(128), torch.randn(2, 5, 256)
    weight[3, 17], x[0, 0, 200] = 20.0, 300.0
    return weight, bias, x


@pytest.mark.parametrize("name", PRESETS)
def test_forward_is_the_dequantized_product(name: str, case) -> None:
    weight, bias, x = case
    scheme = PRESETS[name]
    frozen = QParams(torch.tensor([[0.7]]), None) if name == "FP8" else None
    if scheme.activations is not None and scheme.activations.local:
        frozen = choose_qparams(torch.tensor([[-3.0]]), torch.tensor([[3.0]]), scheme.activations)
    layer = QuantLinear(quantize(weight, scheme.weights), bias, scheme.activations, frozen)
    x_hat = x if scheme.activations is None else fake_quantize(x, scheme.activations, frozen)
    weight_hat = dequantize(quantize(weight, scheme.weights))
    expected = F.linear(x_hat, weight_hat, bias)
    assert torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert not torch.allclose(layer(x), F.linear(x, weight, bias), rtol=1e-3)
    layer.path = "dequantize"
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("text", [*FORMATS, "int4/asym", "int2/asym", "int8/asym", "int3/asym"])
@pytest.mark.parametrize("width", [128, 129])
def test_codes_survive_their_packing(text: str, width: int) -> None:
    fmt, *tail = text.split("/")
    spec = Scheme.parse("/".join([f"w:{fmt}/channel", *tail])).weights
    before = quantize(torch.randn(6, width), spec)
    layer = QuantLinear(before, None)
    after = layer.qweight
    assert after is not None
    assert torch.equal(after.q.view(torch.uint8), before.q.view(torch.uint8))
    assert torch.equal(after.scale, before.scale)
    if before.zero_point is not None:
        assert torch.equal(after.zero_point, before.zero_point)
    held = layer.codes.nbytes + layer.scale.nbytes + (0 if layer.zero_point is None else layer.zero_point.nbytes)
    assert held == before.held_bytes


def test_state_dict_holds_codes_and_no_float_weight(case) -> None:
    layer = QuantLinear(quantize(case[0], Scheme.parse("W4A16").weights), case[1])
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in layer.state_dict().items()}
    assert shapes == {
        "codes": ((128, 128), torch.uint8),
        "scale": ((128, 2), torch.float32),
        "bias": ((128,), torch.float32),
    }


def test_output_dtype_follows_the_input(case) -> None:
    layer = QuantLinear(quantize(case[0], Scheme.parse("W8A16").weights), None)
    assert layer(case[2].bfloat16()).dtype == torch.bfloat16


def test_refusals(case) -> None:
    static = Scheme.parse("a:int8/tensor/static").activations
    qweight = quantize(case[0], Scheme.parse("W8A16").weights)
    with pytest.raises(ValueError, match="either codes or a float weight"):
        QuantLinear(None, None)
    with pytest.raises(ValueError, match="either codes or a float weight"):
        QuantLinear(qweight, None, float_weight=case[0])
    with pytest.raises(ValueError, match="static activations need the range recorded"):
        QuantLinear(qweight, None, static)
    with pytest.raises(ValueError, match="others must have none"):
        QuantLinear(qweight, None, None, QParams(torch.ones(1, 1), None))


def test_the_layer_takes_the_best_path_or_the_one_it_is_told(case) -> None:
    weight, bias, x = case
    scheme = PRESETS["W8A8"]
    layer = QuantLinear(quantize(weight, scheme.weights), bias, scheme.activations)
    assert (layer.path, layer.path_for(x).name) == (None, "int8_torch")
    layer.path = "dequantize"
    assert (layer.path, layer.path_for(x).name) == ("dequantize", "dequantize")
    layer.path = "fp8_torch"
    with pytest.raises(ValueError, match="the path 'fp8_torch' is closed here: it multiplies fp8_e4m3"):
        layer(x)
    with pytest.raises(ValueError, match="no path is called 'fast'"):
        layer.path = "fast"
    layer.path = None
    assert layer.path_for(x).name == "int8_torch"


def test_a_float_weight_has_one_path(case) -> None:
    weight, bias, x = case
    layer = QuantLinear(None, bias, PRESETS["W8A8"].activations, float_weight=weight)
    assert layer.path_for(x).name == "dequantize"
    layer.path = "int8_torch"
    with pytest.raises(ValueError, match="this weight stays float"):
        layer(x)


def test_what_a_path_keeps_is_counted_and_dropped(case) -> None:
    weight, _, x = case
    scheme = Scheme.parse("w:int8/channel,a:int8/token/asym/dynamic")
    layer = QuantLinear(quantize(weight, scheme.weights), None, scheme.activations)
    assert layer.prepared_bytes == 0
    before = layer(x)
    new = 128 + LEAST_TURNS  # int32: sums of rows, and turns; the codes are shared
    assert layer.prepared_bytes == 4 * new
    layer.path = "dequantize"
    assert layer.prepared_bytes == 0
    layer(x)
    assert layer.prepared_bytes == 0
    odd = QuantLinear(quantize(weight[:, :200], scheme.weights), None, PRESETS["W8A8"].activations)
    odd(x[..., :200])
    assert odd.prepared_bytes == 128 * 256 + 4 * LEAST_TURNS  # 200 columns padded to 256: a second copy of the codes
    layer.path = None
    assert torch.equal(layer(x), before)
    other = QuantLinear(quantize(weight * 2 + 1, scheme.weights), None, scheme.activations)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))
    assert not torch.equal(layer(x), before)
    assert layer.to(torch.bfloat16).prepared_bytes == 0


def test_no_tokens_and_wrong_widths(case) -> None:
    weight, bias, x = case
    layer = QuantLinear(quantize(weight, PRESETS["W8A16"].weights), bias)
    assert layer(x[:0]).shape == (0, 5, 128)
    layer = QuantLinear(quantize(weight, PRESETS["W8A8"].weights), bias, PRESETS["W8A8"].activations)
    with pytest.raises(ValueError, match="x has 255 features and the layer takes 256"):
        layer(x[..., 1:])
