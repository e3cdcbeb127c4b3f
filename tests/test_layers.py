"""QuantLinear computes with exactly what its codes say."""

import pytest
import torch
from torch.nn import functional as F

from quantcore.affine import QParams
from quantcore.formats import FORMATS
from quantcore.layers import QuantLinear
from quantcore.qtensor import dequantize, fake_quantize, quantize
from quantcore.scheme import PRESETS, Scheme


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
    layer = QuantLinear(quantize(weight, scheme.weights), bias, scheme.activations, frozen)
    x_hat = x if scheme.activations is None else fake_quantize(x, scheme.activations, frozen)
    weight_hat = dequantize(quantize(weight, scheme.weights))
    assert torch.equal(layer(x), F.linear(x_hat, weight_hat, bias))
    assert not torch.equal(layer(x), F.linear(x, weight, bias))


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
