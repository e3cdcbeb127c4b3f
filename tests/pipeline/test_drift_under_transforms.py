"""What Qronos and GPTAQ learn of drift under a transform: both streams of inputs are the transformed model's.

A transform leaves the float model as it was, so what a later layer reads in it is X S^-1, and behind quantized blocks
X~ S^-1. H and D must be of these, or the correction solves another problem than the one that the codes will meet.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from quantcore import quantize_model
from quantcore.methods import gptaq, qronos
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import layer_inputs
from quantcore.pipeline.treated import treated, treated_model
from quantcore.scheme.plan import Plan

LATER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, 200, (6, 40), generator=torch.Generator().manual_seed(3))


def rows(model: Any, tokens: Tensor) -> Tensor:
    return layer_inputs(model, tokens, LATER).flatten(0, 1).double()


@pytest.mark.parametrize("transform", ["awq", "smooth=0.8/all", "rotate=hadamard", "rotate=random"])
@pytest.mark.parametrize("method", ["qronos", "gptaq"])
def test_both_streams_are_the_transformed_models(
    tiny_lm: LoadedModel, tokens: Tensor, transform: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    module, name = (qronos, "qronos_quantize_many") if method == "qronos" else (gptaq, "gptaq_quantize_many")
    own = getattr(module, name)

    def noted(problems: Any, hessian: Tensor, drift: Tensor | None, shares: Any, said: str) -> Any:
        if drift is not None and LATER in said:
            seen[LATER] = hessian.double().clone(), drift.double().clone()
        return own(problems, hessian, drift, shares, said)

    monkeypatch.setattr(f"quantcore.methods.codes.{name}", noted)
    text = f"w:int3/group16,{transform},{method}"
    quantized, _ = quantize_model(tiny_lm.model, text, calibration=tokens)
    floats = treated_model(treated(held(tiny_lm), Plan.parse(text), tokens))
    behind = treated_model(treated(held(tiny_lm), Plan.parse(text), tokens))
    behind.model.layers[0] = quantized.model.layers[0]
    behind.model.embed_tokens = quantized.model.embed_tokens
    x, coded = rows(floats, tokens), rows(behind, tokens)
    hessian, drift = seen[LATER]
    assert float((x - coded).norm() / x.norm()) > 0.01  # there is something to make up for
    for found, wanted in ((hessian, coded.T @ coded), (drift, coded.T @ (x - coded))):
        assert float((found - wanted).norm() / wanted.norm()) < 1e-3
