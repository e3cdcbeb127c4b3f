"""Refined scales: laws, and what they win on the road."""

import pytest
import torch

from quantcore.export.recipe import why_not
from quantcore.measure.evaluate import compare
from quantcore.methods.options import Refine
from quantcore.methods.refine import refined
from quantcore.numbers.qtensor import dequantize, fake_quantize, qparams_for
from quantcore.numbers.scales import local_codes
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme
from tests.specs import weights_spec

NVFP4, MXFP4 = "fp4_e2m1/group16/e4m3", "fp4_e2m1/group32/e8m0"


def loss(weight: torch.Tensor, left: torch.Tensor, hessian: torch.Tensor) -> float:
    error = (left - weight).double()
    return float(((error @ hessian.double()) * error).sum())


@pytest.mark.parametrize("text", [NVFP4, MXFP4, "fp8_e4m3/group32/e8m0", "fp4_e2m1/block8x16/e4m3"])
@pytest.mark.parametrize("search", ["", "/search=h"])
def test_it_is_never_worse_than_where_it_begins(text: str, search: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(256, 64) @ torch.randn(64, 64), torch.randn(24, 64) ** 3
    hessian, spec = x.T @ x, weights_spec(text + search)
    start = qparams_for(weight, spec, power=hessian.diagonal())
    found = refined(weight, spec, hessian)
    before, after = (loss(weight, one, hessian) for one in (fake_quantize(weight, spec, start), dequantize(found)))
    assert after <= before * (1 + 1e-5)
    assert after < 0.99 * before or "fp8" in text
    assert torch.equal(dequantize(found), fake_quantize(weight, spec, found.qparams))  # codes are the nearest ones
    stored = local_codes(found.scale, found.global_scale)
    assert stored.view(torch.uint8).max() > stored.view(torch.uint8).min()


def test_no_scale_alone_does_better() -> None:
    """Two tiles, so that two rounds end where neither can be moved by a code."""
    torch.manual_seed(2)
    x, weight = torch.randn(256, 32) @ torch.randn(32, 32), torch.randn(8, 32)
    hessian, spec = x.T @ x, weights_spec(NVFP4)
    found = refined(weight, spec, hessian)
    least = loss(weight, dequantize(found), hessian)
    for other in spec.scales.neighbours(found.scale, found.global_scale, (1, 1)):
        for row in range(8):
            for tile in range(2):
                scale = found.scale.clone()
                scale[row, tile] = other[row, tile]
                left = fake_quantize(weight, spec, found.qparams._replace(scale=scale))
                assert loss(weight, left, hessian) >= least * (1 - 1e-5)


def test_it_stands_in_a_schemes_text(tiny_lm) -> None:  # type: ignore[no-untyped-def]
    tokens = torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(1))
    scheme = Scheme.parse("NVFP4A16,refine")
    assert isinstance(scheme.method, Refine)
    assert str(scheme) == f"w:{NVFP4},refine"
    assert why_not(scheme) is not None
    copies = {
        text: quantize_model(tiny_lm.model, text, calibration=tokens)[0] for text in ("NVFP4A16", f"w:{NVFP4},refine")
    }
    plain, found = (one.kl for one in compare(tiny_lm.model, copies, tokens).reports.values())
    assert found < 0.9 * plain
    with pytest.raises(ValueError, match="refine goes from code to code of scales, and float has none; use clip"):
        Scheme.parse("w:int4/group128,refine")
    with pytest.raises(ValueError, match="refine goes from code to code of scales, and float has none; use clip"):
        refined(torch.ones(2, 4), weights_spec("int4/channel"), torch.eye(4))
