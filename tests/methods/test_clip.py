"""AWQ's clip search, worked by hand, and what it gains on a layer and on the road."""

import pytest
import torch

from quantcore.export.recipe import why_not
from quantcore.measure.evaluate import compare
from quantcore.methods.clip import SHRINKS, clipped
from quantcore.methods.codes import Problem, codes
from quantcore.methods.options import Clip
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme


def _spec(text: str) -> QuantSpec:
    spec = Scheme.parse(f"w:{text}").weights
    assert spec is not None
    return spec


@pytest.mark.parametrize(("power", "scale"), [((1.0, 100.0), 0.6), ((1.0, 1.0), 0.8), ((100.0, 1.0), 1.0)])
def test_the_louder_input_decides(power: tuple[float, float], scale: float) -> None:
    """w = (1, 0.6), codes -1..1, both become c: the loss p0 (1 - c)^2 + p1 (0.6 - c)^2, of c = 1, 0.95 ... 0.55.

    p = (1, 100): 0.16 at 0.6, 0.3725 at 0.65.  (1, 1): 0.08 at 0.8.  (100, 1): 0.16 at 1, 0.3725 at 0.95."""
    found = clipped(torch.tensor([[1.0, 0.6]]), _spec("int2_narrow/channel"), torch.diag(torch.tensor(power)))
    assert found.scale.item() == pytest.approx(scale)
    assert dequantize(found)[0].tolist() == pytest.approx([scale, scale])


def test_each_tile_has_its_own_range() -> None:
    """The case above as two groups of two rows, whose columns are loud in another place each."""
    weight = torch.tensor([[1.0, 0.6, 10.0, 6.0], [10.0, 6.0, 1.0, 0.6]])
    hessian = torch.diag(torch.tensor([1.0, 100.0, 100.0, 1.0]))
    found = clipped(weight, _spec("int2_narrow/group2"), hessian)
    assert torch.allclose(found.scale, torch.tensor([[0.6, 10.0], [6.0, 1.0]]))


@pytest.mark.parametrize("text", ["int3/group16", "int4/group16/asym", "int3/channel", "int4/tensor", "int4/block8x16"])
def test_no_tile_loses_more_than_by_rounding(text: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(256, 32) @ torch.randn(32, 32), torch.randn(24, 32) ** 3
    spec = _spec(text)
    found, plain = clipped(weight, spec, x.T @ x), quantize(weight, spec)
    narrower = found.scale / plain.scale
    assert ((narrower >= SHRINKS[-1] - 1e-4) & (narrower <= 1 + 1e-4)).all()
    assert narrower.min() < 0.99
    high, wide = spec.granularity.tile(weight.shape)
    for place, name in ((found, "searched"), (plain, "rounded")):
        error = weight - dequantize(place)
        parts = [(error[:, at : at + wide] @ x[:, at : at + wide].T).square().sum(1) for at in range(0, 32, wide)]
        lost = torch.stack(parts, 1).view(-1, high, 32 // wide).sum(1)
        if name == "searched":
            least = lost
    assert (least <= lost * 1.0001).all()


def test_with_equal_inputs_and_no_outlier_nothing_is_clipped() -> None:
    """Values on the grid already: every narrower range loses something."""
    weight = torch.tensor([[7.0, -3.0, 1.0, 0.0]])
    found = clipped(weight, _spec("int4_narrow/channel"), torch.eye(4))
    assert found.scale.item() == 1.0
    assert torch.equal(found.q, quantize(weight, found.spec).q)


def test_it_stands_in_a_schemes_text(tiny_lm) -> None:  # type: ignore[no-untyped-def]
    tokens = torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(1))
    scheme = Scheme.parse("w:int3/group32,awq,clip")
    assert isinstance(scheme.method, Clip)
    assert str(scheme) == "w:int3/group32,awq,clip"
    copies = {
        text: quantize_model(tiny_lm.model, text, calibration=tokens)[0] for text in ("w:int3/group32", str(scheme))
    }
    plain, both = (one.kl for one in compare(tiny_lm.model, copies, tokens).reports.values())
    assert both < 0.9 * plain
    assert why_not(scheme) == "it has no clip; use rtn or gptq"


def test_what_it_refuses() -> None:
    spec = _spec("int4/group16")
    weight = torch.randn(4, 32)
    with pytest.raises(ValueError, match="v_proj: the Hessian holds NaN or Inf"):
        clipped(weight, spec, torch.full((32, 32), torch.nan), name="v_proj")
    with pytest.raises(ValueError, match="the Hessian is all zero"):
        clipped(weight, spec, torch.zeros(32, 32))
    with pytest.raises(ValueError, match="the values to quantize hold NaN or Inf"):
        clipped(weight.index_fill(1, torch.tensor([3]), torch.nan), spec, torch.eye(32))
    with pytest.raises(ValueError, match="clip needs the Hessian of its inputs"):
        codes([Problem(weight, spec, Clip())], None)
    with pytest.raises(ValueError, match="cannot read 'clip/0.5'"):
        Scheme.parse("W4A16,clip/0.5")
