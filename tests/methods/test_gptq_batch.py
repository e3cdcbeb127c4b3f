"""Many problems at once have the codes that each has alone."""

import pytest
import torch
from torch import Tensor

from quantcore.methods import gptq_batch
from quantcore.methods.gptq import CholeskyError, GptqProblem, gptq_quantize
from quantcore.methods.gptq_batch import GptqSet, gptq_quantize_sets
from quantcore.methods.options import Gptq, parse_method
from quantcore.scheme.scheme import Scheme

SPECS = ("w:int4/group16", "w:int3/group16/asym", "w:int4/channel", "w:int8/tensor", "w:fp8_e4m3/channel")
WAYS = ("gptq", "gptq/actorder=weight", "gptq/actorder=group", "gptq/block=24/damp=0.1")


def hessian(seed: int, width: int = 48) -> Tensor:
    """Of correlated inputs with one loud channel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(96, width, generator=generator) @ torch.randn(width, width, generator=generator)
    x[:, seed % width] *= 8
    return x.T @ x


def sets(count: int, spec: str, way: str) -> list[GptqSet]:
    """Two weights of different heights that share each Hessian."""
    known, options = Scheme.parse(spec).weights, Gptq.of(parse_method(way))
    assert known is not None
    return [
        GptqSet(
            [GptqProblem(torch.randn(rows, 48), known, options) for rows in (8, 12)], hessian(seed), f"expert {seed}"
        )
        for seed in range(count)
    ]


def test_by_hand() -> None:
    """Step 1. H = [[1, .9], [.9, 1]]: of (.4, .4) the .4 that is lost in column 0 is pushed right, (0, 1); H = I keeps
    columns apart, (0, 0). A row of (7, 7) beside them sets the scale of int4_narrow a tensor to 1."""
    spec = Scheme.parse("w:int4_narrow/tensor").weights
    assert spec is not None
    weight = torch.tensor([[0.4, 0.4], [7.0, 7.0]])
    pulled, apart = torch.tensor([[1.0, 0.9], [0.9, 1.0]]), torch.eye(2)
    found = gptq_quantize_sets([GptqSet([GptqProblem(weight, spec)], one, "") for one in (pulled, apart)])
    assert [codes[0].q[0].tolist() for codes in found] == [[0, 1], [0, 0]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spec", SPECS)
def test_together_as_one_by_one(spec: str, way: str) -> None:
    asked = sets(5, spec, way)
    for one, found in zip(asked, gptq_quantize_sets(asked), strict=True):
        for problem, codes in zip(one.problems, found, strict=True):
            alone = gptq_quantize(problem.weight, one.hessian, problem.spec, problem.options)
            assert torch.equal(codes.q.float(), alone.q.float())
            assert torch.equal(codes.scale, alone.scale)
            assert (codes.g_idx is None) == (alone.g_idx is None)
            assert codes.g_idx is None or torch.equal(codes.g_idx, alone.g_idx)


def test_they_are_solved_in_one_sweep_and_in_turn_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, sizes = sets(5, SPECS[0], WAYS[0]), list[int]()
    solved = gptq_batch.solve_together
    monkeypatch.setattr(gptq_batch, "solve_together", lambda some: (sizes.append(len(some)), solved(some))[1])
    whole = gptq_quantize_sets(asked)
    monkeypatch.setattr(gptq_batch, "BATCH_NUMBERS", 2 * (48 * 48 + 20 * 48))
    for found, again in zip(whole, gptq_quantize_sets(asked), strict=True):
        assert all(torch.equal(one.q, other.q) for one, other in zip(found, again, strict=True))
    assert sizes == [5, 2, 2, 1]


def test_sets_that_differ_are_solved_apart() -> None:
    asked = [*sets(2, SPECS[0], WAYS[0]), *sets(2, SPECS[2], WAYS[0]), *sets(1, SPECS[0], "gptq/moving")]
    found = gptq_quantize_sets(asked)
    for one, codes in zip(asked, found, strict=True):
        alone = gptq_quantize(one.problems[1].weight, one.hessian, one.problems[1].spec, one.problems[1].options)
        assert torch.equal(codes[1].q, alone.q)


def test_what_is_refused_has_the_name_of_its_set() -> None:
    asked = sets(3, SPECS[0], WAYS[0])
    with pytest.raises(ValueError, match="expert 1: the Hessian is all zero"):
        gptq_quantize_sets([asked[0], asked[1]._replace(hessian=torch.zeros(48, 48)), asked[2]])
    bad = torch.eye(48)
    bad[3, 3] = -5
    with pytest.raises(CholeskyError, match="expert 2: the Hessian is not positive definite with damp=0.01"):
        gptq_quantize_sets([*asked[:2], asked[2]._replace(hessian=bad)])
    with pytest.raises(ValueError, match="expert 0: a weight of 48 columns needs a Hessian of shape"):
        gptq_quantize_sets([asked[0]._replace(hessian=torch.eye(40)), asked[1]])
