"""What is seen of a text on its way through the blocks: ranges and Hessians of what enters the layers, errors of what
leaves them. A text goes no further than to the last layer that someone wants to know of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from quantcore.model.held import Held
from quantcore.model.linears import by_block, watch_inputs
from quantcore.numbers.observers import RangeRecorder
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.calibration import LayerStats, momenta_of
from quantcore.pipeline.hessians import hessians_of
from quantcore.pipeline.outputs import OUTPUT_TOKENS, OutputSums, compared
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.scheme import Scheme

Hessians = list[tuple[Tensor, list[str]]]  # each with the layers that read its inputs


class Seen(NamedTuple):
    """Recorded ranges by layer, and Hessians; `whole`: of all windows, not of this rank's alone."""

    ranges: Mapping[str, LayerStats]
    hessians: Hessians
    whole: bool = True


class Passing:
    """A text behind the blocks that it has passed, one part after another, as long as `wanted` layers lie ahead."""

    def __init__(self, model: Held, tokens: Tensor, wanted: Iterable[str], tokens_a_batch: int | None = None) -> None:
        self.walk = BlockWalk(model, tokens, tokens_a_batch)
        self.wanted = by_block(model.blocks, wanted)
        self._last = max(place for place, names in enumerate(self.wanted.values()) if names)
        self._place = 0

    def step(self, module: nn.Module) -> None:
        """Run the next part over the text, for hooks, and stand behind it."""
        if self._place < self._last:
            self.walk.advance(module)
        elif self._place == self._last:
            self.walk.run(module)
        self._place += 1

    def advance(self, block: nn.Module) -> None:
        """Stand behind the next part, if anything is wanted there."""
        if self._place < self._last:
            self.walk.advance(block)
        self._place += 1


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
        self._momenta: dict[str, set[float]] = {}
        for name, scheme in schemes:
            if scheme.needs_ranges and not stats:
                self._momenta.setdefault(name, set()).update(momenta_of(scheme))
        by_hessian = [] if sequential else list(dict.fromkeys(name for name, one in schemes if one.needs_hessian))
        self._given = stats if stats and has_hessians(stats, by_hessian) else None
        self._by_hessian = by_block(model.blocks, by_hessian)
        self._ranges: Mapping[str, LayerStats] = stats or {}
        wanted = [*self._momenta, *([] if self._given is not None else by_hessian)]
        self._text = None
        if wanted and calibration is not None:
            self._text = Passing(model, ranks().share(calibration), wanted)

    def see(self, name: str, module: nn.Module) -> Seen:
        """What enters the layers of a part."""
        by_hessian = self._by_hessian[name]
        if self._text is None:
            return Seen(self._ranges, self._kept(by_hessian))
        static = [one for one in self._text.wanted[name] if one in self._momenta]
        ranges = {one: LayerStats(ranges=RangeRecorder(tuple(sorted(self._momenta[one])))) for one in static}
        prefix = f"{name}." if name else ""

        def record(one: str, x: Tensor) -> None:
            ranges[f"{prefix}{one}"].update(x, hessian=False)

        if static:
            with watch_inputs(module, [one.removeprefix(prefix) for one in static], record):
                self._text.walk.run(module)
        kept = self._kept(by_hessian)
        hessians = kept or hessians_of(module, name, by_hessian, self._text.walk)
        return Seen(self._ranges or pooled(ranges), hessians, bool(kept))

    def compare(self, name: str, module: nn.Module, sums: Mapping[str, Sequence[OutputSums]]) -> None:
        """What leaves the layers of a part, beside what leaves their quantized forms; that text is a part further."""
        if self._outputs is not None:
            prefix = f"{name}." if name else ""
            with compared(module, {one.removeprefix(prefix): found for one, found in sums.items()}):
                self._outputs.step(module)

    def advance(self, block: nn.Module) -> None:
        if self._text is not None:
            self._text.advance(block)

    def _kept(self, names: list[str]) -> Hessians:
        found: dict[int, tuple[Tensor, list[str]]] = {}
        for name in names:
            hessian = None if self._given is None else self._given[name].hessian
            if hessian is not None:
                found.setdefault(id(hessian), (hessian, []))[1].append(name)
        return list(found.values())


def pooled(ranges: Mapping[str, LayerStats]) -> Mapping[str, LayerStats]:
    """The ranges that all ranks have seen, in the order of their windows."""
    if ranks().alone or not ranges:
        return ranges
    said = ranks().all_said({name: one.ranges for name, one in ranges.items()})
    return {name: LayerStats(ranges=RangeRecorder.joined([one[name] for one in said])) for name in ranges}


def has_hessians(stats: Mapping[str, LayerStats] | None, names: Iterable[str]) -> bool:
    """Whether the Hessian of every one of these layers was recorded."""
    return stats is not None and all(name in stats and stats[name].hessian is not None for name in names)
