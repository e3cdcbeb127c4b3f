"""Studies work where the model is: of a matrix only what is drawn comes to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import Tensor

from quantcore.methods.options import Gptq
from quantcore.model.loading import LoadedModel
from quantcore.numbers.formats import format_named
from quantcore.pipeline.calibration import layer_inputs
from quantcore.studies.cut import cut_curve
from quantcore.studies.gptq_map import order_map
from quantcore.studies.gptq_order import order_study
from quantcore.studies.gptq_steps import TileSteps, companions, tile_rows, tile_steps
from quantcore.studies.granularity import granularity_study
from quantcore.studies.number_formats import code_use, fit
from quantcore.studies.outliers import Trial, channel_study, who_pays
from quantcore.studies.ranges import unfrozen
from tests.specs import activations_spec, weights_spec

OUT, WIDTH, TOKENS = 320, 256, 256


def gptq_tile(x: Tensor, weight: Tensor) -> object:
    hessian = x.T @ x
    return tile_steps(weight, hessian, tile_rows(OUT), companions(hessian), weights_spec("int3/group16"), Gptq())


STUDIES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "granularity": lambda x, w: granularity_study(w, x, weights_spec("int4/group64")),
    "codes": lambda x, w: code_use(w, fit(w, format_named("int4"), symmetric=True)),
    "channels": lambda x, w: channel_study(x),
    "payers": lambda x, w: who_pays(x, "int8"),
    "remedies": lambda x, w: Trial(x, w).remedies("int8"),
    "ranges": lambda x, w: unfrozen(x, w, activations_spec("int8/tensor/static")),
    "cut": lambda x, w: cut_curve(x, activations_spec("int8/tensor/static")),
    "map": lambda x, w: order_map(w, x.T @ x, (3,), ("group64",), (0.01,)),
    "orders": lambda x, w: order_study(w, x.T @ x, weights_spec("int3/group64"), 0.01, TOKENS, (7,), x),
    "tile": gptq_tile,
}


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each tensor holds that is asked to come to the CPU."""
    seen: list[int] = []
    there = Tensor.cpu

    def spied(one: Tensor) -> Tensor:
        seen.append(one.numel())
        return there(one)

    monkeypatch.setattr(Tensor, "cpu", spied)
    return seen


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOKENS, WIDTH, generator=generator), torch.randn(OUT, WIDTH, generator=generator)


@pytest.mark.parametrize("study", STUDIES)
def test_no_matrix_comes_to_the_cpu(study: str, came: list[int]) -> None:
    STUDIES[study](*drawn())
    assert max(came, default=0) <= 128 * 160  # a heat map's cells; a matrix here has 65,536 numbers or more


def test_what_enters_a_layer_stays_where_it_is(tiny_lm: LoadedModel, came: list[int]) -> None:
    x = layer_inputs(tiny_lm.model, torch.arange(40).view(1, 40), "model.layers.1.mlp.down_proj")
    assert x.dtype == torch.float32
    assert max(came, default=0) <= 40  # the places of tokens


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("study", STUDIES)
def test_a_gpu_says_what_the_cpu_says(study: str) -> None:
    x, weight = drawn()
    here, there = (list(numbers(STUDIES[study](*pair))) for pair in ((x, weight), (x.cuda(), weight.cuda())))
    assert there == pytest.approx(here, rel=1e-2, abs=1e-6, nan_ok=True)


def numbers(answer: object) -> Iterator[float]:
    """Every float in a report: losses, errors, scales."""
    if isinstance(answer, float):
        yield answer
    elif isinstance(answer, TileSteps):
        yield from (*answer.loss.tolist(), *answer.rtn_loss.tolist())
    elif is_dataclass(answer):
        for one in fields(answer):
            yield from numbers(getattr(answer, one.name))
    elif isinstance(answer, tuple):
        for part in answer:
            yield from numbers(part)


@pytest.mark.parametrize("study", STUDIES)
def test_every_report_has_numbers_to_compare(study: str) -> None:
    assert list(numbers(STUDIES[study](*drawn())))
