"""A jitter moves each scale within half a 16-bit grain, and nothing else."""

import pytest
import torch

from quantcore.methods.gptq import gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.numbers.jitter import moved
from quantcore.numbers.qtensor import quantize
from quantcore.scheme.scheme import Scheme


def weight_spec(text: str):
    spec = Scheme.parse(text).weights
    assert spec is not None
    return spec


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_a_range_stays_within_half_a_grain(seed: int) -> None:
    hi = torch.linspace(0.01, 70, 20_000)
    _, up = moved(-hi, hi, seed)
    grain = 2.0 ** (torch.floor(torch.log2(hi)) - 10)  # float16 has 10 bits behind the first
    share = (up - hi) / (grain / 2)
    assert share.abs().max() <= 1.001
    assert share.abs().max() > 0.99
    assert abs(float(share.mean())) < 0.02  # as often up as down
    assert float(share.std()) == pytest.approx(3**-0.5, rel=0.02)  # uniform


@pytest.mark.parametrize("text", ["w:int4/group16", "w:int3/channel/asym", "w:fp8_e4m3/channel", "w:int4/group16/mse"])
def test_codes_change_by_one_at_most_and_few_do(text: str) -> None:
    weight = torch.randn(256, 64)
    plain, other = (quantize(weight, weight_spec(text + end)) for end in ("", "/jitter1"))
    assert not torch.equal(plain.scale, other.scale)
    steps = (plain.spec.fmt.decode(other.q) - plain.spec.fmt.decode(plain.q)).abs()
    changed = float((steps > 0).double().mean())
    assert 0 < changed < 0.02
    if not plain.spec.fmt.is_float:
        assert steps.max() == 1
    again = quantize(weight, weight_spec(text + "/jitter1"))
    assert torch.equal(again.q, other.q)
    assert not torch.equal(quantize(weight, weight_spec(text + "/jitter2")).scale, other.scale)


def test_a_global_scale_moves_within_half_a_grain_and_codes_of_scales_stay() -> None:
    torch.manual_seed(0)
    weight = torch.randn(256, 64)
    for search in ("", "/search"):
        text = f"w:fp4_e2m1/group16/e4m3{search}"
        plain, other = (quantize(weight, weight_spec(text + end)) for end in ("", "/jitter1"))
        assert plain.global_scale is not None
        assert other.global_scale is not None
        assert 0 < float((other.global_scale / plain.global_scale - 1).abs()) < 2**-11
        assert float((other.scale / plain.scale - 1).abs().median()) < 2**-11  # a few codes lay between two
        assert 0 < float((other.q != plain.q).double().mean()) < 0.03


def test_gptq_has_other_luck_too() -> None:
    weight, x = torch.randn(32, 64), torch.randn(200, 64)
    plain, other = (
        gptq_quantize(weight, x.T @ x, weight_spec(f"w:int4/group16{end}"), Gptq()) for end in ("", "/jitter1")
    )
    share = (other.scale / plain.scale - 1).abs()
    assert 0 < float(share.max()) < 2**-11
    assert not torch.equal(plain.q, other.q)


def test_the_text_says_it_and_activations_have_none() -> None:
    assert str(Scheme.parse("w:int4/channel/mse/jitter12,gptq")) == "w:int4/channel/mse/jitter12,gptq"
    with pytest.raises(ValueError, match="jitter moves the scales of weights"):
        Scheme.parse("w:int8/channel,a:int8/tensor/static/jitter1")
    with pytest.raises(ValueError, match="no grain to move in"):
        Scheme.parse("w:int8/channel,a:int8/token/dynamic/jitter1")
    for text in ("w:int4/channel/jitter0", "w:int4/channel/jitter1/jitter2"):
        with pytest.raises(ValueError, match="cannot read|one observer too many"):
            Scheme.parse(text)
