"""The GPTQ kernel computes what the plain form says, on a GPU. Without one: tests/interpreted_gptq.py."""

import pytest
import torch

from quantcore import dequantize
from quantcore.methods.gptq import CholeskyError, GptqProblem, Trace, gptq_loss, gptq_quantize, gptq_quantize_many
from quantcore.methods.options import Gptq
from tests import gptq_laws as laws
from tests.specs import weights_spec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("order", laws.ORDERS)
@pytest.mark.parametrize("kind", ["random", "dead", "outlier"])
@pytest.mark.parametrize("text", laws.TEXTS)
def test_on_the_gpu(text: str, kind: str, order: str | None) -> None:
    laws.check_float32(text, kind, order, "cuda")


@pytest.mark.parametrize("text", ["int4/group128", "int4/group128/asym", "int3/channel"])
@pytest.mark.parametrize("shape", [(200, 1408), (1, 640), (1000, 1088)])
def test_wide_layers_on_the_gpu(text: str, shape: tuple[int, int]) -> None:
    """Several chunks, widths that are no multiple of block or chunk, one row: the loss of the CPU's float64."""
    if shape[1] % 128 and "group" in text:
        text = text.replace("128", "64")
    weight = torch.randn(shape, dtype=torch.float64) * 0.05
    x = torch.randn(2048, shape[1], dtype=torch.float64) @ torch.randn(shape[1], shape[1], dtype=torch.float64)
    x[:, 3] *= 30
    hessian = x.T @ x
    for order in laws.ORDERS:
        options, trace = Gptq(actorder=order), Trace(rows=(0,))
        exact = gptq_quantize(weight, hessian, weights_spec(text), options)
        fast = gptq_quantize(weight.float().cuda(), hessian.float().cuda(), weights_spec(text), options, trace)
        losses = [gptq_loss(weight, dequantize(q).cpu(), hessian) for q in (exact, fast)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        assert torch.allclose(trace.quantized[0], dequantize(fast).cpu()[0, trace.order], atol=1e-6)


@pytest.mark.parametrize(("width", "large"), [(1, 8192), (70, 8192), (2500, 8192), (2500, 64)])
def test_the_factorization_on_the_gpu(monkeypatch: pytest.MonkeyPatch, width: int, large: int) -> None:
    from quantcore.methods.kernels import cholesky

    monkeypatch.setattr(cholesky, "LARGE", large)
    for by_diagonal in (False, True):
        laws.check_factorization(width, by_diagonal, "cuda")


def test_a_factorization_that_fails_on_the_gpu() -> None:
    weight, hessian = (t.float().cuda() for t in laws.problem("random"))
    indefinite = hessian - 2 * hessian.diagonal().mean() * torch.eye(len(hessian), device="cuda")
    with pytest.raises(CholeskyError, match=r"q_proj: .*damp=0.01 .*such as 0.1"):
        gptq_quantize(weight, indefinite, weights_spec("int4/group32"), name="q_proj")


def test_many_and_moving_scales_on_the_gpu() -> None:
    weight, hessian = (t.float().cuda() for t in laws.problem("random", 64, 512))
    ways = [Gptq(), Gptq("weight"), Gptq("group", static_groups=False), Gptq(damp=0.1)]
    specs = [weights_spec(text) for text in ("int2/group64", "int4/group32/asym", "fp4_e2m1/group64", "int8/channel")]
    problems = [GptqProblem(weight, one, way) for one in specs for way in ways]
    for one, q in zip(problems, gptq_quantize_many(problems, hessian), strict=True):
        alone = gptq_quantize(one.weight, hessian, one.spec, one.options)
        losses = [gptq_loss(weight, dequantize(found), hessian) for found in (q, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
