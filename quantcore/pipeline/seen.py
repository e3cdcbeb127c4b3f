"""What is seen of a text on its way through the blocks: ranges and Hessians of what enters the layers, errors of what
leaves them. A text goes no further than to the last layer that someone wants to know of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from quantcore.model.experts import Experts, every_token
from quantcore.model.held import Held
from quantcore.model.inputs import watch_inputs
from quantcore.model.layer_names import by_block
from quantcore.numbers.observers import RangeRecorder
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.calibration import LayerStats, momenta_of
from quantcore.pipeline.hessians import SharedHessian, hessians_of
from quantcore.pipeline.outputs import OUTPUT_TOKENS, OutputSums, compared
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.scheme import Scheme


class Seen(NamedTuple):
    """What entered the layers of a part.

    ranges     recorded ranges by layer, where experts saw the tokens that the router gave them, and where they saw all
    hessians   alike; `whole`: of all windows, not of this rank's alone"""

    ranges: Mapping[bool, Mapping[str, LayerStats]]
    hessians: Mapping[bool, list[SharedHessian]]
    whole: bool = True

    def ranges_for(self, schemes: Mapping[str, Scheme]) -> dict[str, LayerStats]:
        """The recorded range of each layer as its scheme wants it, where there is one."""
        found = {name: self.ranges.get(one.every_token, {}).get(name) for name, one in schemes.items()}
        return {name: stats for name, stats in found.items() if stats is not None}

    def hessians_for(self, schemes: Mapping[str, Scheme]) -> list[SharedHessian]:
        """The Hessians of these layers, each as its scheme wants it."""
        wanted = {name: one.every_token for name, one in schemes.items() if one.needs_hessian}
        return [
            SharedHessian(hessian, mine, tokens)
            for every, known in self.hessians.items()
            for hessian, names, tokens, _ in known
            if (mine := [name for name in names if wanted.get(name) is every])
        ]


class Passing:
    """A text behind the blocks that it has passed, one part after another, as long as `wanted` layers lie ahead."""

    def __init__(self, model: Held, tokens: Tensor, wanted: Iterable[str], tokens_a_batch: int | None = None) -> None:
        self.walk = BlockWalk(model, tokens, tokens_a_batch)
        self.wanted = by_block(model.blocks, wanted)
        self._last = max(place for place, names in enumerate(self.wanted.values()) if names)
        self._place = 0
        self._ahead = False  # the walk stands behind the part at hand already

    def passing(self, module: nn.Module, last: bool) -> Iterator[int]:
        """Run the next part over the text, batch by batch, for hooks; `last`: nobody runs it again before `advance`."""
        if last and self._place < self._last:
            self._ahead = True
            return self.walk.advancing(module)
        return self.walk.running(module)

    def step(self, module: nn.Module) -> None:
        """Run the next part over the text, for hooks, and stand behind it."""
        if self._place < self._last:
            self.walk.advance(module)
        elif self._place == self._last:
            self.walk.run(module)
        self._place += 1

    def advance(self, block: nn.Module) -> None:
        """Stand behind the next part, if anything is wanted there."""
        if self._place < self._last and not self._ahead:
            self.walk.advance(block)
        self._place, self._ahead = self._place + 1, False


class FloatSide:
    """What the float model shows, once for all plans.

    stats        recorded before: their ranges are used, and their Hessians where not `sequential`
    sequential   whether Hessians are none of its concern"""

    def __init__(
        self,
        model: Held,
        plans: Sequence[Mapping[str, Scheme]],
        calibration: Tensor | None,
        measured: Tensor | None,
        stats: Mapping[str, LayerStats] | None,
        sequential: bool,
    ) -> None:
        schemes = [pair for plan in plans for pair in plan.items()]
        few = None if measured is None else measured[: max(1, OUTPUT_TOKENS // measured.shape[1])]
        self.windows = 0 if few is None else len(few)  # on which outputs are compared
        self._outputs = Passing(model, few, dict(schemes), OUTPUT_TOKENS) if few is not None and schemes else None
        self._momenta: dict[bool, dict[str, set[float]]] = {}
        for name, scheme in schemes:
            if scheme.needs_ranges and not stats:
                self._momenta.setdefault(scheme.every_token, {}).setdefault(name, set()).update(momenta_of(scheme))
        by_hessian: dict[bool, list[str]] = {}
        for name, scheme in dict.fromkeys(() if sequential else schemes):
            if scheme.needs_hessian:
                by_hessian.setdefault(scheme.every_token, []).append(name)
        those = [name for names in by_hessian.values() for name in names]
        self._given = stats if stats and has_hessians(stats, those) else None
        self._by_hessian = {every: by_block(model.blocks, dict.fromkeys(names)) for every, names in by_hessian.items()}
        self._stats = stats
        wanted = [name for names in self._momenta.values() for name in names]
        wanted += [] if self._given is not None else those
        self._text = None
        if wanted and calibration is not None:
            self._text = Passing(model, ranks().share(calibration), wanted)

    def see(self, name: str, module: nn.Module) -> Seen:
        """What enters the layers of a part."""
        prefix = f"{name}." if name else ""
        ranges = dict.fromkeys((False, True), with_borrowed(self._stats, module, prefix)) if self._stats else {}
        kept = {every: self._kept(names[name]) for every, names in self._by_hessian.items()}
        if self._text is None:
            return Seen(ranges, kept)
        ranges |= {every: self._recorded(name, module, every) for every in self._momenta}
        if any(kept.values()):
            return Seen(ranges, kept)
        walk = self._text.walk
        found = {every: hessians_of(module, name, by[name], walk, every) for every, by in self._by_hessian.items()}
        return Seen(ranges, found, whole=False)

    def _recorded(self, name: str, module: nn.Module, every: bool) -> Mapping[str, LayerStats]:
        """Ranges of what enters those layers of a part whose scheme wants it so."""
        assert self._text is not None
        momenta = self._momenta[every]
        static = [one for one in self._text.wanted[name] if one in momenta]
        ranges = {one: LayerStats(ranges=RangeRecorder(tuple(sorted(momenta[one])))) for one in static}
        prefix = f"{name}." if name else ""

        def record(one: str, x: Tensor) -> None:
            ranges[f"{prefix}{one}"].update(x, hessian=False)

        if static:
            with watch_inputs(module, [one.removeprefix(prefix) for one in static], record), every_token(module, every):
                self._text.walk.run(module)
        return with_borrowed(pooled(ranges), module, prefix)

    def compare(self, name: str, module: nn.Module, sums: Mapping[str, Sequence[OutputSums]]) -> None:
        """What leaves the layers of a part, beside what leaves their quantized forms; that text is a part further."""
        if self._outputs is not None:
            prefix = f"{name}." if name else ""
            with compared(module, {one.removeprefix(prefix): found for one, found in sums.items()}):
                self._outputs.step(module)

    def advance(self, block: nn.Module) -> None:
        if self._text is not None:
            self._text.advance(block)

    def _kept(self, names: list[str]) -> list[SharedHessian]:
        found: dict[int, SharedHessian] = {}
        for name in names:
            if self._given is not None and (hessian := self._given[name].hessian) is not None:
                found.setdefault(id(hessian), SharedHessian(hessian, [], self._given[name].tokens)).layers.append(name)
        return list(found.values())


def pooled(ranges: Mapping[str, LayerStats]) -> Mapping[str, LayerStats]:
    """The ranges that all ranks have seen, in the order of their windows."""
    if ranks().alone or not ranges:
        return ranges
    said = ranks().all_said({name: (one.ranges, one.tokens) for name, one in ranges.items()})
    return {
        name: LayerStats(
            tokens=sum(one[name][1] for one in said), ranges=RangeRecorder.joined([one[name][0] for one in said])
        )
        for name in ranges
    }


def with_borrowed(ranges: Mapping[str, LayerStats], module: nn.Module, prefix: str) -> Mapping[str, LayerStats]:
    """The ranges, where an expert that no token reached, so that its own are empty or missing, has that of all its
    neighbours' inputs; its `tokens` stay 0."""
    found = dict(ranges)
    for place, experts in module.named_modules():
        if not isinstance(experts, Experts):
            continue
        for part in experts.names.values():
            names = [f"{prefix}{place}.{number}.{part}" for number in range(experts.num_experts)]
            seen = [ranges[name].ranges for name in names if name in ranges and ranges[name].tokens]
            for name in names if seen else ():
                if name not in ranges or not ranges[name].tokens:
                    found[name] = LayerStats(ranges=RangeRecorder.joined(seen))
    return found


def has_hessians(stats: Mapping[str, LayerStats] | None, names: Iterable[str]) -> bool:
    """Whether the Hessian of every one of these layers was recorded."""
    return stats is not None and all(name in stats and stats[name].hessian is not None for name in names)
