"""Sets of layers that share a Hessian, each solved by one of several ranks, its owner, and known to all then.

Every rank has summed X^T X over its own windows, and X~^T (X - X~) where a method wants it. What it saw may differ: a
rank whose windows never reach an expert has no sum for it. So the ranks first tell each other their sets; then each
set's sums are added up where it is solved, and its codes go to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantcore.numbers.affine import QParams
from quantcore.numbers.packing import unpack
from quantcore.numbers.qtensor import QTensor
from quantcore.pipeline.layers import Made, made_of
from quantcore.pipeline.ranks import owners, ranks
from quantcore.scheme.scheme import Scheme

Members = Mapping[str, tuple[nn.Linear, Scheme]]
Solve = Callable[[Members, Tensor, "Tensor | None"], dict[str, Made]]
CODES = ("codes", "scale", "zero_point", "g_idx", "global_scale")  # of a QuantLinear: its weight


class Sums(NamedTuple):
    """A rank's sums over what several layers read, (K, K) each; drift None where nobody wants it."""

    hessian: Tensor
    layers: list[str]
    drift: Tensor | None = None


class _Form(NamedTuple):
    """What a layer's owner says of it before its numbers come: shape and type of each of CODES, names of figures."""

    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]]
    figures: tuple[str, ...]


def solve_shared(
    sets: Sequence[Sums],
    members: Members,
    statics: Mapping[str, QParams | None],
    solve: Solve,
    summed: bool,
) -> dict[str, Made]:
    """What `solve(members of a set, its Hessian, its drift)` makes, of every set on every rank.

    sets      this rank's sums, by what each set of layers reads
    statics   frozen qparams of the layers' inputs, the same on every rank
    summed    whether these are the sums over all ranks' windows already
    Raises: on every rank what an owner's `solve` refuses."""
    those = ranks()
    known = _agreed(sets, members)
    costs = [_cost(names, members) for names, _ in known.values()]
    owner = dict(zip(known, owners(costs, those.size), strict=True))
    own = _sums(sets, known, owner, members, summed)
    problem: Exception | None = None
    made: dict[str, Made] = {}
    try:
        for first in list(own):
            mine = own.pop(first)
            made |= solve({name: members[name] for name in mine.layers}, mine.hessian, mine.drift)
    except ValueError as error:
        problem = error
    those.together(problem)
    return _told(made, known, owner, members, statics)


def _agreed(sets: Sequence[Sums], members: Members) -> dict[str, tuple[list[str], bool]]:
    """The sets that any rank has seen, and whether with drift, by their first layer, in the order of the block's
    layers."""
    known: dict[str, tuple[list[str], bool]] = {}
    for said in ranks().all_said([(one.layers, one.drift is not None) for one in sets]):
        for together, drifts in said:
            known.setdefault(together[0], (together, drifts))
    return {first: known[first] for first in members if first in known}


def _sums(
    sets: Sequence[Sums],
    known: Mapping[str, tuple[list[str], bool]],
    owner: Mapping[str, int],
    members: Members,
    summed: bool,
) -> dict[str, Sums]:
    """What this rank owns, over all ranks' windows. All is added up before the first set is solved: nobody waits for an
    owner that solves."""
    mine, own = {one.layers[0]: one for one in sets}, dict[str, Sums]()
    for first, (layers, drifts) in known.items():
        here = mine.pop(first, None) or _nothing(members[first][0].weight, layers, drifts)
        if not summed:
            for tensor in (here.hessian, here.drift):
                if tensor is not None:
                    ranks().sum_to(owner[first], tensor)
        if owner[first] == ranks().rank:
            own[first] = here
    return own


def _nothing(weight: Tensor, layers: list[str], drifts: bool) -> Sums:
    """The sums of a rank that none of these tokens reached."""
    width = weight.shape[1]
    zeros = [torch.zeros(width, width, device=weight.device) for _ in range(1 + drifts)]
    return Sums(zeros[0], layers, zeros[1] if drifts else None)


def _told(
    made: dict[str, Made],
    known: Mapping[str, tuple[list[str], bool]],
    owner: Mapping[str, int],
    members: Members,
    statics: Mapping[str, QParams | None],
) -> dict[str, Made]:
    """What this rank has made and what the others have."""
    forms: dict[str, _Form] = {}
    for said in ranks().all_said({name: _form(one) for name, one in made.items()}):
        forms |= said
    for first, (names, _) in known.items():
        for name in names:
            layer, scheme = members[name]
            numbers = _numbers(made[name]) if name in made else _room(forms[name], layer.weight.device)
            for tensor in numbers:
                ranks().spread(owner[first], tensor)
            if name not in made:
                made[name] = _received(name, layer, scheme, statics[name], forms[name], numbers)
    return made


def _cost(names: list[str], members: Members) -> float:
    """Multiply-adds of a factorization and a sweep."""
    width = members[names[0]][0].in_features
    return width**3 / 3 + sum(members[name][0].out_features for name in names) * width**2


def _form(made: Made) -> _Form:
    held = {name: getattr(made.layer, name) for name in CODES}
    return _Form({name: (tuple(x.shape), x.dtype) for name, x in held.items() if x is not None}, tuple(made.figures))


def _numbers(made: Made) -> list[Tensor]:
    tensors = [getattr(made.layer, name) for name in CODES]
    figures = [torch.stack(list(made.figures.values()))] if made.figures else []
    return [tensor.contiguous() for tensor in tensors if tensor is not None] + figures


def _room(form: _Form, device: torch.device) -> list[Tensor]:
    """Tensors to receive such a layer's numbers."""
    tensors = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in form.tensors.values()]
    figures = [torch.empty(len(form.figures), dtype=torch.float64, device=device)] if form.figures else []
    return tensors + figures


def _received(
    name: str, layer: nn.Linear, scheme: Scheme, static: QParams | None, form: _Form, numbers: list[Tensor]
) -> Made:
    held = dict(zip(form.tensors, numbers, strict=False))
    figures = dict(zip(form.figures, numbers[-1].unbind(), strict=True)) if form.figures else {}
    if not held:
        return made_of(name, layer, scheme, static, None, figures)
    assert scheme.weights is not None
    codes, zero_point = held["codes"], held.get("zero_point")
    if codes.dtype == torch.uint8:
        codes = unpack(codes, scheme.weights.fmt.bits, layer.in_features)
    zero_point = None if zero_point is None else zero_point.float()
    qweight = QTensor(codes, held["scale"], zero_point, scheme.weights, held.get("g_idx"), held.get("global_scale"))
    return made_of(name, layer, scheme, static, qweight, figures)
