"""A layer behind rounded layers: without drift Qronos is GPTQ, with it the correction mends."""

import pytest
import torch

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
    study = drift_study(weight, (x, x), (x, x), spec, 0.01)
    assert study.moved == study.corrected == study.learned[AS_IT_IS] == 0
    assert study.learned[BY_QRONOS] == study.learned[BY_GPTQ] < study.learned[ROUNDED]
    assert study.learned[BY_GPTAQ] == study.learned[BY_GPTQ]


def test_a_uniform_drift_is_undone(spec: QuantSpec) -> None:
    """X~ = X / 2: w costs a quarter of the output, w' = 2 w costs nothing, up to the damping."""
    x, weight = torch.randn(400, 32), torch.randn(8, 32)
    study = drift_study(weight, (x, x / 2), (x[:50], x[:50] / 2), spec, 1e-6)
    assert study.moved == pytest.approx(0.25)
    assert study.learned[AS_IT_IS] == study.read[AS_IT_IS] == pytest.approx(0.25, rel=1e-4)
    assert study.learned[CORRECTED] < 1e-6
    assert study.corrected == pytest.approx(1.0, rel=1e-3)
    assert study.learned[BY_QRONOS] < 0.2 * study.learned[BY_GPTQ]
