"""X^T X of what enters a block's Linears: what GPTQ weighs the columns' errors with.

hessians = hessians_of(block, "model.layers.0", names, walk)        [(H, the layers that read this input), ...]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantcore.model.experts import Experts, SeeSorted, every_token, watch_sorted, weights_kept
from quantcore.model.inputs import SharedInputs, watch_inputs
from quantcore.model.layer_names import expert_of
from quantcore.model.memory import free_memory
from quantcore.pipeline.blocks import BlockWalk, Enough
from quantcore.pipeline.gram import ExpertGrams, Gram, drift_of
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.scheme import Scheme

HESSIAN_SHARE = 0.3  # of the memory that is free, for one part's Hessians


class SharedHessian(NamedTuple):
    """X^T X of inputs that several layers read: (K, K), their names, and over how many tokens it was summed; `drift`
    X^T (X_float - X) where it was asked for."""

    hessian: Tensor
    layers: list[str]
    tokens: int
    drift: Tensor | None = None


def portioned(
    schemes: Mapping[str, Scheme], layers: Mapping[str, nn.Linear], module: nn.Module
) -> list[dict[str, Scheme]]:
    """The layers of a part in portions whose Hessians fit into HESSIAN_SHARE of the memory that is free, an expert
    never cut in two; the text goes through the part once for each. One portion, but for a mixture of hundreds of wide
    experts: those of DeepSeek-V3, 256 of 7168 and 2048 columns, take 57 GB a block."""
    experts: dict[object, dict[str, Scheme]] = {}
    for name, scheme in schemes.items():
        place = expert_of(name)
        experts.setdefault(place[:2] if place else None, {})[name] = scheme
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    free = free_memory(device)
    room = min(one for one in ranks().all_said(free[0] if free and len(experts) > 1 else 2**62))
    found: list[dict[str, Scheme]] = [{}]
    held = 0
    for mine in experts.values():
        widths = {layers[name].in_features for name, scheme in mine.items() if scheme.needs_hessian}
        needed = 4 * sum(width**2 for width in widths) * (1 + any(one.needs_drift for one in mine.values()))
        if found[-1] and held + needed > HESSIAN_SHARE * room:
            found.append({})
            held = 0
        found[-1] |= mine
        held += needed
    return found


def hessians_of(
    module: nn.Module,
    block: str,
    names: list[str],
    walk: BlockWalk,
    every: bool = False,
    floats: Iterator[int] | None = None,
) -> list[SharedHessian]:
    """X^T X of the named layers of a block (or, "", of what lies around the blocks), each with the layers that it
    belongs to: those that read one tensor. `every`: experts see every token, not only those that the router gives them.

    floats   runs the module over the first windows of the text as they come here in the float model, batch by batch;
             then each sum has their drift. Raises: ValueError for an expert that gets other tokens there
    A layer that no token reaches has none. Once a batch has called each layer once, a later one goes no further than
    the last of them."""
    if not names:
        return []
    prefix = f"{block}." if block else ""
    local = [name.removeprefix(prefix) for name in names]
    shared, sums, tokens = SharedInputs(), dict[str, Gram](), dict[str, int]()
    drifts, wanted = dict[str, Tensor](), dict[str, Tensor]()
    calls: list[str] = []
    once = looking = False

    def called(layers: Sequence[str]) -> None:
        calls.extend(layers)
        if once and len(calls) >= len(local) and set(calls) == set(local):
            raise Enough

    def see(name: str, x: Tensor) -> None:
        if looking:
            wanted[name] = x
            return
        if shared.is_first(name, x):
            sums.setdefault(name, Gram()).add(x)
            if floats is not None:
                if (pair := _same_tokens(prefix + name, x, wanted.get(name), every)) is not None:
                    drift = drift_of(*pair)
                    drifts[name] = drifts[name].add_(drift) if name in drifts else drift
            tokens[name] = tokens.get(name, 0) + x.numel() // x.shape[-1]
        called([name])

    def look(ahead: Iterator[int]) -> None:
        """Let the float model's inputs pass by, one batch ahead of those that are summed."""
        nonlocal looking
        looking = True
        wanted.clear()
        next(ahead, None)
        looking = False

    apart = (
        {}
        if every or floats is not None
        else {name: one for name, one in module.named_modules() if isinstance(one, Experts)}
    )
    together = [_Together(place, experts, local) for place, experts in apart.items()]
    with watch_inputs(module, local, see), every_token(module, every), ExitStack() as stack:
        for one in together:
            stack.enter_context(watch_sorted(one.experts, one.seen_by(called)))
        stack.enter_context(weights_kept(module))
        ahead = iter(()) if floats is None else floats
        look(ahead)
        for _ in walk.running(module):
            once = once or sorted(calls) == sorted(local)
            calls.clear()
            look(ahead)
    found = [
        SharedHessian(
            gram.total, [one for one, its in shared.first.items() if its == first], tokens[first], drifts.get(first)
        )
        for first, gram in sums.items()
    ]
    found += [each for one in together for each in one.found()]
    return [one._replace(layers=[f"{prefix}{name}" for name in one.layers]) for one in found]


def _same_tokens(name: str, x: Tensor, wanted: Tensor | None, every: bool) -> tuple[Tensor, Tensor] | None:
    """The first windows of x, of which the float model's are known, and these; None where none is."""
    if expert_of(name) and not every and (wanted is None or wanted.shape != x.shape):
        raise ValueError(
            f"the router sends other tokens to {name!r} behind quantized blocks than in the float model, so its inputs "
            "cannot be compared; write experts=all"
        )
    return None if wanted is None else (x[: len(wanted)], wanted)


class _Together:
    """The sums of one module of experts where they are multiplied at once: one for each expert and input."""

    def __init__(self, place: str, experts: Experts, wanted: Collection[str]) -> None:
        self.experts = experts
        known = set(wanted)
        self._names = {
            part: {number: name for number in range(experts.num_experts) if (name := at.format(number)) in known}
            for part, at in ((part, f"{place}.{{}}.{own}") for part, own in experts.names.items())
        }
        self._sums: dict[tuple[str, ...], ExpertGrams] = {}

    def seen_by(self, called: Callable[[Sequence[str]], None]) -> SeeSorted:
        """What `watch_sorted` shall call."""

        def see(parts: tuple[str, ...], x: Tensor, ends: Tensor) -> None:
            numbers = sorted({number for part in parts for number in self._names[part]})
            if numbers:
                self._sums.setdefault(parts, ExpertGrams(numbers)).add(x, ends)
                called([name for part in parts for name in self._names[part].values()])

        return see

    def found(self) -> list[SharedHessian]:
        return [
            SharedHessian(total, [self._names[part][number] for part in parts if number in self._names[part]], count)
            for parts, sums in self._sums.items()
            for number, (total, count) in sums.totals().items()
        ]
