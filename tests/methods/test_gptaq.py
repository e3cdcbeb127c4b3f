"""GPTAQ: each column hands on its rounding error, and what its input has lost."""

import pytest
import torch
from torch import Tensor

from quantcore.methods.codes import Problem, codes
from quantcore.methods.gptaq import gptaq_quantize_many
from quantcore.methods.gptq import CholeskyError, GptqProblem, gptq_quantize
from quantcore.methods.options import Gptaq, Gptq
from quantcore.numbers.affine import from_grid, to_grid
from quantcore.numbers.qtensor import dequantize, qparams_for, quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme


def _spec(text: str) -> QuantSpec:
    spec = Scheme.parse(f"w:{text}").weights
    assert spec is not None
    return spec


def _layer(bits: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """X, X~ behind a layer that is quantized, and a weight, in float64."""
    torch.manual_seed(3)
    mix = torch.randn(64, 64) / 8 + torch.diag(torch.logspace(0, 0.7, 64))
    x0, first = (torch.randn(512, 64) @ mix).double(), torch.randn(64, 64).double() / 8
    behind = dequantize(quantize(first, _spec(f"int{bits}/channel"))).double()
    return torch.tanh(x0 @ first.T), torch.tanh(x0 @ behind.T), torch.randn(48, 64).double() / 8


def _stepwise(weight: Tensor, hessian: Tensor, drift: Tensor, spec: QuantSpec, damp: float, alpha: float) -> Tensor:
    """Column by column as the paper writes it, for scales of whole rows; the values that are left."""
    damped = hessian.clone()
    damped.diagonal().add_(damp * hessian.diagonal().mean())
    u = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    p = alpha * (drift.T @ u.T).triu(1) @ u
    qparams = qparams_for(weight, spec).map(lambda part: part[:, 0])
    w, left = weight.clone(), torch.empty_like(weight)
    for i in range(w.shape[1]):
        here = w[:, i].clone()
        left[:, i] = from_grid(to_grid(here, qparams, spec.fmt), qparams)
        w[:, i + 1 :] -= ((here - left[:, i]) / u[i, i])[:, None] * u[i, i + 1 :] - here[:, None] * p[i, i + 1 :]
    return left


def test_a_channel_that_is_lost_is_made_up_for_by_a_later_one() -> None:
    """Twice the same input, the first all 0 behind quantized layers. X~^T X~ + damping = diag(4, 8), U = diag(1/2,
    8^-1/2), D_01 = 4: P_01 = 4 / 8. So 0.4 becomes 0.4 + 3.5 / 2 = 2.15, and 2 in steps of 0.5. The other way round
    nothing is handed on: Qronos would, GPTAQ looks forward alone."""
    x, moved = torch.ones(4, 2).double(), torch.tensor([[0.0, 1.0]] * 4).double()
    problem = GptqProblem(torch.tensor([[3.5, 0.4]]).double(), _spec("int4_narrow/channel"), Gptq(damp=2.0))
    for behind, wanted in ((moved, [3.5, 2.0]), (moved.flip(1), [3.5, 0.5])):
        (found,) = gptaq_quantize_many([problem], behind.T @ behind, behind.T @ (x - behind), [1.0])
        assert dequantize(found)[0].tolist() == wanted


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_it_takes_the_papers_steps(alpha: float) -> None:
    x, moved, weight = _layer()
    hessian, drift = moved.T @ moved, moved.T @ (x - moved)
    spec = _spec("int4/channel")
    (found,) = gptaq_quantize_many([GptqProblem(weight, spec)], hessian, drift, [alpha])
    wanted = _stepwise(weight, hessian, drift, spec, 0.01, alpha)
    assert torch.allclose(dequantize(found).double(), wanted, atol=1e-6)
    assert not torch.equal(found.q, gptq_quantize(weight, hessian, spec).q)


@pytest.mark.parametrize("order", [None, "weight"])
def test_with_the_float_models_inputs_it_is_gptq(order: str | None) -> None:
    x, _, weight = _layer()
    hessian = x.T @ x
    spec = _spec("int3/group32")
    theirs = gptq_quantize(weight, hessian, spec, Gptq(order))  # type: ignore[arg-type]
    for drift in (torch.zeros(64, 64), None):
        ours = codes([Problem(weight, spec, Gptaq(order), drift)], hessian)[0]  # type: ignore[arg-type]
        assert torch.equal(ours.q, theirs.q)
        assert torch.equal(ours.scale, theirs.scale)


def test_several_weights_and_orders_share_a_hessian() -> None:
    """As one by one, with a float format beside integers."""
    x, moved, weight = _layer()
    hessian, drift = moved.T @ moved, moved.T @ (x - moved)
    asked = [
        (weight, "int4/group16", Gptaq()),
        (weight.flip(0), "int3/group32", Gptaq(alpha=1.0)),
        (weight[:20], "fp8_e4m3/channel", Gptaq("weight")),
    ]
    problems = [Problem(one, _spec(text), method, drift) for one, text, method in asked]
    for together, problem in zip(codes(problems, hessian), problems, strict=True):
        (alone,) = codes([problem], hessian)
        assert torch.equal(dequantize(together), dequantize(alone))


@pytest.mark.parametrize(("bits", "least"), [(4, 0.99), (3, 0.99)])
def test_it_comes_closer_to_the_float_layer(bits: int, least: float) -> None:
    x, moved, weight = _layer(bits)
    hessian, drift = moved.T @ moved, moved.T @ (x - moved)
    spec = _spec(f"int{bits}/channel")

    def lost(q: Tensor) -> float:
        return float((moved @ q.T.double() - x @ weight.T).norm() / (x @ weight.T).norm())

    (solved,) = gptaq_quantize_many([GptqProblem(weight, spec)], hessian, drift, [Gptaq.alpha])
    assert lost(dequantize(solved)) < least * lost(dequantize(gptq_quantize(weight, hessian, spec)))


def test_on_the_road_it_sees_what_quantized_blocks_do(tiny_lm) -> None:  # type: ignore[no-untyped-def]
    tokens = torch.randint(3, 250, (6, 24), generator=torch.Generator().manual_seed(1))
    gptq, _ = quantize_model(tiny_lm.model, "w:int3/group32,gptq", calibration=tokens)
    gptaq, reports = quantize_model(tiny_lm.model, "w:int3/group32,gptaq", calibration=tokens)
    first, later = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    assert torch.equal(gptq.get_submodule(first).codes, gptaq.get_submodule(first).codes)
    assert not torch.equal(gptq.get_submodule(later).codes, gptaq.get_submodule(later).codes)
    assert "gptaq" in reports[0].scheme


def test_its_text_and_what_it_refuses() -> None:
    for text in ("gptaq", "gptaq/actorder=weight/alpha=1", "gptaq/damp=0.05"):
        assert str(Scheme.parse(f"W3A16,{text}").method) == text
    for alpha in ("0", "1.5"):
        with pytest.raises(ValueError, match=f"alpha={alpha} is no share of what gptaq makes up for"):
            Scheme.parse(f"W4A16,gptaq/alpha={alpha}")
    with pytest.raises(ValueError, match="cannot read 'actorder=group'"):
        Scheme.parse("W4A16,gptaq/actorder=group")
    x, moved, weight = _layer()
    drift = moved.T @ (x - moved)
    with pytest.raises(ValueError, match="the Hessian is all zero"):
        gptaq_quantize_many([GptqProblem(weight, _spec("int4/channel"))], torch.zeros(64, 64).double(), drift, [0.25])
    with pytest.raises(CholeskyError, match="q_proj: the Hessian is not positive definite with damp=0.01"):
        gptaq_quantize_many(
            [GptqProblem(weight, _spec("int4/channel"))], -moved.T @ moved, drift, [0.25], name="q_proj"
        )
