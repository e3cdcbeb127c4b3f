"""AWQ's search on the road: for each link of a block every candidate is tried on what its readers' outputs lose.

What is compared is the output of the smallest part of the block that holds all readers: the attention for q, k and v,
the MLP for gate and up, the layer itself for o and down. A layer's own loss is sum over rows of e H e^T, and needs no
run; a part is run once for each candidate, over the first TOKENS of the text. All candidates' losses stay on the
device, where the least is looked up: nothing waits for it before the block is done. Several ranks each try on their own
text, and add up sizes and losses, so that all choose the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quantcore.methods.transforms.awq import candidates, weight_means
from quantcore.methods.transforms.options import Awq
from quantcore.model.experts import every_token
from quantcore.model.inputs import watch_inputs
from quantcore.model.linears import every_linear
from quantcore.model.wiring import Link, storable, stored
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.spec import MinMax, QuantSpec
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.gram import Gram
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.scheme import Scheme

CPU_TOKENS, GPU_TOKENS = 2048, 65536
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Searching:
    """AWQ's scales, block after block."""

    def __init__(self, transform: Awq) -> None:
        self._transform = transform

    def scales(
        self, block: nn.Module, links: Sequence[Link], schemes: Mapping[str, Scheme], walk: BlockWalk
    ) -> list[tuple[Link, Tensor]]:
        """Raises: ValueError for a block that has nothing to fold into."""
        if not links:
            raise ValueError(
                "awq finds nothing in this model's blocks whose outputs Linears alone read, so its scales cannot be "
                "folded; leave it out"
            )
        seen = _Watched(block, links, any(one.every_token for one in schemes.values()))
        seen.pass_over(walk)
        found = []
        for link in links:
            if (x_mean := seen.mean(link)) is not None:
                found.append((link, storable(block, link, self._best(block, link, schemes, seen, x_mean).float())))
        return found

    def _best(
        self, block: nn.Module, link: Link, schemes: Mapping[str, Scheme], seen: _Watched, x_mean: Tensor
    ) -> Tensor:
        layers = every_linear(block)
        specs = {name: replace(spec, observer=MinMax()) for name in link.readers if (spec := _spec(schemes.get(name)))}
        weights = {name: layers[name].weight.detach().float() for name in specs}
        columns = {name: link.readers[name].to(x_mean.device) for name in specs}
        w_mean = _per_channel(
            link, {name: weight_means([(weights[name], spec)]) for name, spec in specs.items()}, weights
        )
        tried = candidates(x_mean, w_mean)
        part = module_of(list(link.readers))
        losses: list[Tensor] = []
        for scales in tried:
            changed = {name: _tried(weights[name], scales[columns[name]], spec) for name, spec in specs.items()}
            if len(link.readers) == 1:
                (name,) = changed
                losses.append(seen.loss_of(name, changed[name] - weights[name]))
            else:
                losses.append(seen.loss(part, changed))
        best = _of_all_ranks(torch.stack(losses)).nan_to_num(torch.inf).argmin()
        return tried.index_select(0, best[None])[0]


def _of_all_ranks(mine: Tensor) -> Tensor:
    """The sum over the ranks, the same bits on each."""
    if ranks().alone:
        return mine
    said = ranks().all_said(mine.cpu())
    return torch.stack(said).sum(0).to(mine.device)


def _tried(weight: Tensor, scales: Tensor, spec: QuantSpec) -> Tensor:
    """What a weight is under these scales, (O, K)."""
    rounded = fake_quantize((weight * scales).float(), spec)
    found: Tensor = (rounded / scales).float()
    return found


def module_of(names: Sequence[str]) -> str:
    """The smallest module that holds all of these; of one Linear, itself."""
    if len(names) == 1:
        return names[0]
    paths = [name.split(".")[:-1] for name in names]
    common = 0
    while all(len(path) > common and path[common] == paths[0][common] for path in paths):
        common += 1
    return ".".join(paths[0][:common])


def _spec(scheme: Scheme | None) -> QuantSpec | None:
    return None if scheme is None else scheme.weights


def _per_channel(link: Link, found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """Means over all rows of all readers, by the source's channels."""
    device = next(iter(found.values())).device
    total, rows = (torch.zeros(link.channels, dtype=torch.float64, device=device) for _ in range(2))
    for name, means in found.items():
        columns = link.readers[name].to(device)
        total.index_add_(0, columns, means * len(weights[name]))
        rows.index_add_(0, columns, torch.full_like(means, len(weights[name])))
    return total / rows.clamp(min=1)


class _Watched:
    """What passes a block: mean |x| of each link's readers, H of those that stand alone, the calls of parts."""

    def __init__(self, block: nn.Module, links: Sequence[Link], every: bool) -> None:
        self._block, self._links, self._every = block, links, every
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._grams = {name: Gram() for link in links for name in link.readers if len(link.readers) == 1}
        self._calls: dict[str, list[Call]] = {module_of(list(one.readers)): [] for one in links if len(one.readers) > 1}
        self._outputs: dict[str, list[Tensor]] = {}
        self._reached: set[str] = set()

    def pass_over(self, walk: BlockWalk) -> None:
        """Take the walk past the block."""
        readers = [name for link in self._links for name in self._watched(link)]
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(watch_inputs(self._block, readers, self._see))
            stack.enter_context(every_token(self._block, self._every))
            for name in self._calls:
                stack.callback(self._keep_calls(name).remove)
            walk.advance(self._block)
        self._pool()

    def _pool(self) -> None:
        """Sizes over all ranks' text."""
        if ranks().alone:
            return
        device = next(self._block.parameters()).device
        said = ranks().all_said({name: (one.cpu(), self._counts[name]) for name, one in self._sums.items()})
        names = dict.fromkeys(name for one in said for name in one)
        mine = {name: [one[name] for one in said if name in one] for name in names}
        self._sums = {name: torch.stack([size for size, _ in its]).sum(0).to(device) for name, its in mine.items()}
        self._counts = {name: sum(count for _, count in its) for name, its in mine.items()}

    def _watched(self, link: Link) -> list[str]:
        """Readers of a norm get the same tokens, but experts, which share them out."""
        linears = every_linear(self._block)
        names = [name for name in link.readers if name in linears]
        return names if any(".experts." in f".{name}" for name in names) else names[:1]

    def mean(self, link: Link) -> Tensor | None:
        """Mean |x| of each channel, (channels,); None where no token came."""
        total: Tensor | None = None
        count: Tensor | None = None
        for name in self._watched(link):
            if name in self._sums:
                columns = link.readers[name].to(self._sums[name].device)
                zeros = torch.zeros(link.channels, device=columns.device)
                mine = zeros.index_add(0, columns, self._sums[name])
                heads = zeros.index_add(0, columns, torch.full_like(self._sums[name], self._counts[name]))
                total = mine if total is None else total + mine
                count = heads if count is None else count + heads
        return None if total is None or count is None else total / count.clamp(min=1)

    def loss_of(self, name: str, error: Tensor) -> Tensor:
        """sum over rows of e H e^T of a Linear by itself; 0 where no token of this rank reached it."""
        if name not in self._reached:
            return error.new_zeros(())
        return ((error @ self._grams[name].total) * error).sum()

    def loss(self, part: str, weights: Mapping[str, Tensor]) -> Tensor:
        """|y - y'|^2 summed over a part's outputs, y' with these weights of the block's Linears."""
        if part not in self._outputs:
            self._outputs[part] = [self._run(part, call, {}) for call in self._calls[part]]
        layers = every_linear(self._block)
        inside = {
            f"{name}.weight".removeprefix(f"{part}."): stored(self._block, layers, f"{name}.weight", one)
            for name, one in weights.items()
        }
        apart = [
            (self._run(part, call, inside).float() - said.float()).square().sum()
            for call, said in zip(self._calls[part], self._outputs[part], strict=True)
        ]
        return torch.stack(apart).sum() if apart else next(iter(weights.values())).new_zeros(())

    def _run(self, part: str, call: Call, weights: Mapping[str, Tensor]) -> Tensor:
        with torch.inference_mode(), every_token(self._block, self._every):
            out = functional_call(self._block.get_submodule(part), dict(weights), call[0], dict(call[1]))
        found: Tensor = out[0] if isinstance(out, tuple) else out
        return found

    def _see(self, name: str, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2)
        size = rows.abs().sum(0, dtype=torch.float32)
        self._sums[name] = self._sums[name] + size if name in self._sums else size
        self._counts[name] = self._counts.get(name, 0) + len(rows)
        if name in self._grams:
            self._grams[name].add(rows)
            self._reached.add(name)

    def _keep_calls(self, part: str) -> Any:
        kept = 0

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal kept
            hidden = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
            limit = GPU_TOKENS if hidden.is_cuda else CPU_TOKENS
            if kept < limit:
                self._calls[part].append((args, kwargs))
                kept += hidden.numel() // hidden.shape[-1]

        return self._block.get_submodule(part).register_forward_pre_hook(keep, with_kwargs=True)
