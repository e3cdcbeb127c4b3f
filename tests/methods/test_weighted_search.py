"""Scales searched by diag(H) on the road: every way to codes gives the search the layer's own inputs."""

import pytest
import torch

from quantcore.lab.lab import Lab
from quantcore.methods.codes import Problem, codes
from quantcore.methods.options import Rtn
from quantcore.numbers.qtensor import dequantize
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme
from tests.specs import weights_spec

SPEC = "fp4_e2m1/group16/e4m3"


def _coded(method: str, search: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, what is left of it, and X^T X of inputs of which some are loud."""
    torch.manual_seed(1)
    x = torch.randn(200, 64) * torch.logspace(-1, 1, 64)[torch.randperm(64)]
    weight = torch.randn(24, 64) ** 3
    scheme = Scheme.parse(f"w:{SPEC}{search}{method}")
    assert scheme.weights is not None
    found = codes([Problem(weight, scheme.weights, scheme.method)], x.T @ x)[0]
    return weight, dequantize(found), x.T @ x


@pytest.mark.parametrize(
    "method",
    ["", ",gptq", ",gptq/actorder=weight", ",gptq/actorder=group", ",gptq/moving", ",clip", ",qronos", ",gptaq"],
)
def test_every_method_takes_the_weighted_scales(method: str) -> None:
    lost = {}
    for search in ("", "/search", "/search=h"):
        weight, left, hessian = _coded(method, search)
        lost[search] = float((((left - weight) @ hessian) * (left - weight)).sum())
    assert len(set(lost.values())) == 3
    assert lost["/search=h"] < lost[""]


def test_the_scheme_asks_for_text_and_says_what_it_lacks(tiny_lm) -> None:  # type: ignore[no-untyped-def]
    scheme = Scheme.parse(f"w:{SPEC}/search=h")
    assert str(scheme) == f"w:{SPEC}/search=h"
    assert scheme.needs_hessian
    assert not scheme.without_text.needs_text
    assert str(scheme.without_text) == f"w:{SPEC}/search"
    with pytest.raises(ValueError, match="search=h needs the Hessian of its inputs, and there is none"):
        codes([Problem(torch.randn(4, 32), weights_spec(f"{SPEC}/search=h"), Rtn())], None)
    tokens = torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(1))
    _, reports = quantize_model(tiny_lm.model, scheme, calibration=tokens)
    assert all(one.loss is not None and one.rtn_loss is not None for one in reports if one.scheme != "float")


def test_a_study_of_one_layer_takes_it(tiny_lm) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(tiny_lm)
    layer = next(iter(lab.layers()))
    by_power, plain = (lab.layer_study(layer, f"w:fp4_e2m1/group16/e4m3{way}") for way in ("/search=h", ""))
    assert by_power != plain
