"""A layer behind rounded layers: without drift Qronos is GPTQ, with it the correction mends."""

import pytest
import torch

from quantcore.methods.gptq import gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.methods.qronos import Step, corrected
from quantcore.numbers.qtensor import dequantize, fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.studies.drift import AS_IT_IS, BY_GPTAQ, BY_GPTQ, BY_QRONOS, CORRECTED, ROUNDED, drift_study


@pytest.fixture
def spec() -> QuantSpec:
    found = Scheme.parse("w:int3/group16").weights
    assert found is not None
    return found


def test_without_drift_nothing_is_mended(spec: QuantSpec) -> None:
    x, weight = torch.randn(200, 32) @ (torch.eye(32) + 0.5), torch.randn(8, 32)
    study = drift_study(weight, (x, x), (x, x), spec, 0.01, Step(1.0, 0.01))
    assert study.moved == study.corrected == study.learned[AS_IT_IS] == 0
    assert study.learned[BY_QRONOS] == study.learned[BY_GPTQ] < study.learned[ROUNDED]
    assert study.learned[BY_GPTAQ] == study.learned[BY_GPTQ]


def test_a_uniform_drift_is_undone(spec: QuantSpec) -> None:
    """X~ = X / 2: w costs a quarter of the output, w' = 2 w costs nothing, up to the damping."""
    x, weight = torch.randn(400, 32), torch.randn(8, 32)
    study = drift_study(weight, (x, x / 2), (x[:50], x[:50] / 2), spec, 1e-6, Step(1.0, 1e-6))
    assert study.moved == pytest.approx(0.25)
    assert study.learned[AS_IT_IS] == study.read[AS_IT_IS] == pytest.approx(0.25, rel=1e-4)
    assert study.learned[CORRECTED] < 1e-6
    assert study.corrected == pytest.approx(1.0, rel=1e-3)
    assert study.learned[BY_QRONOS] < 0.2 * study.learned[BY_GPTQ]


def test_the_loss_along_the_columns(spec: QuantSpec) -> None:
    """Each point of each line is |X w - X~ w_t|^2 over |X w|^2, w_t worked out here: columns rounded one after another
    and the others moved by the inverse of what is left of H. Qronos begins with the corrected weight."""
    x, weight, damp = torch.randn(200, 32) @ (torch.eye(32) + 0.3), torch.randn(8, 32), 0.01
    moved = x + 0.3 * torch.randn(200, 32)
    study = drift_study(weight, (x, moved), (x, moved), spec, damp, Step(0.5, damp))
    assert study.steps == tuple(range(33))
    hessian = (moved.T @ moved).double()
    damped = hessian + damp * hessian.diagonal().mean() * torch.eye(32).double()
    (mended,) = corrected([weight], hessian.float(), (moved.T @ (x - moved)), damp, "", 0.5)
    wanted = (x @ weight.T).double()
    for name, begun in ((ROUNDED, weight), (BY_GPTQ, weight), (BY_QRONOS, mended)):
        q = fake_quantize(weight, spec) if name == ROUNDED else _swept(begun, hessian.float(), spec, damp)
        now, losses = begun.double().clone(), []
        for column in range(33):
            losses.append(float((moved.double() @ now.T - wanted).square().sum() / wanted.square().sum()))
            if column < 32:
                error = now[:, column] - q[:, column]
                if name != ROUNDED:
                    inverse = damped[column:, column:].inverse()
                    now[:, column:] -= error[:, None] * inverse[0] / inverse[0, 0]
                now[:, column] = q[:, column].double()
        assert study.courses[name] == pytest.approx(losses, rel=1e-3)
        assert study.courses[name][-1] == pytest.approx(study.learned[name], rel=1e-3)
    assert study.courses[BY_QRONOS][0] == pytest.approx(study.learned[CORRECTED], rel=1e-3)


def _swept(weight: torch.Tensor, hessian: torch.Tensor, spec: QuantSpec, damp: float) -> torch.Tensor:
    return dequantize(gptq_quantize(weight, hessian, spec, Gptq(damp=damp)))
