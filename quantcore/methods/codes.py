"""Codes of weights, by whatever method each one's scheme names; a method from outside is made known here.

@dataclass(frozen=True)
class Down(Method):
    name = "down"

register(Down, lambda problems, hessian, name: [...])      then w:int4/group128,down is a scheme
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from quantcore.methods.clip import clipped
from quantcore.methods.gptaq import gptaq_quantize_many
from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.methods.gptq_batch import GptqSet, gptq_quantize_sets
from quantcore.methods.options import METHODS, Clip, Gptaq, Gptq, Method, Qronos, Refine, Rtn
from quantcore.methods.qronos import Step, qronos_quantize_many
from quantcore.methods.refine import refined
from quantcore.numbers.qtensor import QTensor, global_scale_of, qparams_for, quantize
from quantcore.numbers.spec import QuantSpec


@dataclass(frozen=True)
class Problem:
    """One weight, (O, K), and what is wanted of it; `drift` (K, K) for a method with `needs_drift`, None where no layer
    before is quantized; `global_scale` under which its scales are coded, None: its own."""

    weight: Tensor
    spec: QuantSpec
    method: Method
    drift: Tensor | None = None
    global_scale: Tensor | None = None

    @property
    def needs_hessian(self) -> bool:
        return self.method.needs_hessian or self.spec.weighs_columns


Solver = Callable[[Sequence[Problem], Tensor | None, str], list[QTensor]]
"""Codes of weights that read the same inputs, all by one method: the problems, X^T X of these inputs (None where no
problem `needs_hessian`), and what an error calls the layer."""


def codes(problems: Sequence[Problem], hessian: Tensor | None, name: str = "this layer") -> list[QTensor]:
    """Codes of weights that read the same inputs, (O, K) each, by each one's method; `hessian` (K, K) = X^T X of these
    inputs. Raises: ValueError for a method that needs a Hessian where there is none, and what the methods refuse."""
    found: dict[int, QTensor] = {}
    problems = sharing_global(problems)
    for kind in dict.fromkeys(type(problem.method) for problem in problems):
        mine = {place: problem for place, problem in enumerate(problems) if type(problem.method) is kind}
        needing = next((problem for problem in mine.values() if problem.needs_hessian), None)
        if needing is not None and hessian is None:
            whose = needing.method if kind.needs_hessian else needing.spec.observer
            raise ValueError(
                f"{name}: {whose} needs the Hessian of its inputs, and there is none; give text that reaches it"
            )
        solved = SOLVERS[kind](list(mine.values()), None if needing is None else hessian, name)
        found |= zip(mine, solved, strict=True)
    return [found[place] for place in range(len(problems))]


def codes_of_sets(sets: Sequence[tuple[Sequence[Problem], Tensor, str]]) -> list[list[QTensor]]:
    """`codes` of several sets of problems, each with a Hessian and a name of its own. A method that can (`TOGETHER`)
    solves those that are its alone at once."""
    found: dict[int, list[QTensor]] = {}
    by_kind: dict[type[Method], list[int]] = {}
    for place, (problems, hessian, name) in enumerate(sets):
        kinds = {type(one.method) for one in problems}
        if len(kinds) == 1 and (kind := kinds.pop()) in TOGETHER:
            by_kind.setdefault(kind, []).append(place)
        else:
            found[place] = codes(problems, hessian, name)
    for kind, places in by_kind.items():
        mine = [(sharing_global(sets[place][0]), *sets[place][1:]) for place in places]
        found |= zip(places, TOGETHER[kind](mine), strict=True)
    return [found[place] for place in range(len(sets))]


def sharing_global(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one input, those whose scales stand under a global one under the same: that of the loudest. vLLM
    joins such layers (q, k, v; gate, up) and has one number for all."""
    own = [global_scale_of(one.weight, one.spec) for one in problems]
    known = [one for one in own if one is not None]
    if not known:
        return list(problems)
    shared = torch.stack(known).amin(0)
    return [one if mine is None else replace(one, global_scale=shared) for one, mine in zip(problems, own, strict=True)]


def register(kind: type[Method], solver: Solver) -> None:
    """Make a method known, so that schemes may name it. Raises: ValueError for a name that another method has."""
    if METHODS.get(kind.name, kind) is not kind:
        raise ValueError(f"a method is called {kind.name!r} already; give yours another name")
    METHODS[kind.name], SOLVERS[kind] = kind, solver


def _rounded(problems: Sequence[Problem], hessian: Tensor | None, _: str) -> list[QTensor]:
    power = None if hessian is None else hessian.diagonal().to(problems[0].weight.device)
    chosen = [qparams_for(one.weight, one.spec, one.global_scale, power) for one in problems]
    return [quantize(one.weight, one.spec, qparams) for one, qparams in zip(problems, chosen, strict=True)]


def _one_by_one(solve: Callable[[Tensor, QuantSpec, Tensor, Tensor | None, str], QTensor]) -> Solver:
    """The solver of a method that knows one weight: (weight, spec, Hessian, global scale, name) -> codes."""

    def each(problems: Sequence[Problem], hessian: Tensor | None, name: str) -> list[QTensor]:
        assert hessian is not None
        here = hessian.to(problems[0].weight.device)
        return [solve(one.weight, one.spec, here, one.global_scale, name) for one in problems]

    return each


def _by_gptq(problems: Sequence[Problem], hessian: Tensor | None, name: str) -> list[QTensor]:
    assert hessian is not None
    asked = [GptqProblem(one.weight, one.spec, Gptq.of(one.method), one.global_scale) for one in problems]
    return gptq_quantize_many(asked, hessian.to(asked[0].weight.device), name)


def _by_qronos(problems: Sequence[Problem], hessian: Tensor | None, name: str) -> list[QTensor]:
    methods = [cast(Qronos, one.method) for one in problems]
    asked, hessian, drift = _behind(problems, [one.sweep for one in methods], hessian)
    return qronos_quantize_many(asked, hessian, drift, [Step(one.share, one.ridge) for one in methods], name)


def _by_gptaq(problems: Sequence[Problem], hessian: Tensor | None, name: str) -> list[QTensor]:
    methods = [cast(Gptaq, one.method) for one in problems]
    asked, hessian, drift = _behind(problems, [one.sweep for one in methods], hessian)
    return gptaq_quantize_many(asked, hessian, drift, [one.alpha for one in methods], name)


def _behind(
    problems: Sequence[Problem], options: Sequence[Gptq], hessian: Tensor | None
) -> tuple[list[GptqProblem], Tensor, Tensor | None]:
    """What a method behind quantized layers is given: its problems, Hessian and drift, where the weights are."""
    assert hessian is not None
    device, drift = problems[0].weight.device, problems[0].drift
    asked = [
        GptqProblem(one.weight, one.spec, each, one.global_scale) for one, each in zip(problems, options, strict=True)
    ]
    return asked, hessian.to(device), None if drift is None else drift.to(device)


def _sets_by_gptq(sets: Sequence[tuple[Sequence[Problem], Tensor, str]]) -> list[list[QTensor]]:
    return gptq_quantize_sets(
        [
            GptqSet(
                [GptqProblem(one.weight, one.spec, Gptq.of(one.method), one.global_scale) for one in problems],
                hessian.to(problems[0].weight.device),
                name,
            )
            for problems, hessian, name in sets
        ]
    )


TOGETHER: dict[type[Method], Callable[[Sequence[tuple[Sequence[Problem], Tensor, str]]], list[list[QTensor]]]] = {
    Gptq: _sets_by_gptq
}
SOLVERS: dict[type[Method], Solver] = {
    Rtn: _rounded,
    Clip: _one_by_one(clipped),
    Refine: _one_by_one(refined),
    Gptq: _by_gptq,
    Qronos: _by_qronos,
    Gptaq: _by_gptaq,
}
