"""The one road: a model and a plan become parts, decoder block by decoder block, each in float and quantized.

    for part in parts(loaded, "W4A16,gptq", text): ...         # part.layers: {name: QuantLinear}

Whoever wants a quantized model, a comparison or a checkpoint takes the parts as they come. It makes no difference
whether the model is in memory or in its files: the same functions work on the same numbers in the same order, and
beside what the source holds, memory takes a block in float and quantized, the Hessians of one block, and the hidden
states of the texts. Several plans go the way together, and read each block once.

GPTQ is sequential: the Hessians of a block are taken behind the blocks that are quantized already.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import model_size
from quantcore.model.held import Held, held
from quantcore.model.linears import by_block, every_linear, expert_of, head_of, linear_shapes, require_plan, why_float
from quantcore.model.loading import LoadedModel
from quantcore.model.places import copy_with, holding
from quantcore.model.wholeness import require_much
from quantcore.numbers.bits import Size
from quantcore.pipeline.calibration import LayerStats, Progress
from quantcore.pipeline.clock import Clock
from quantcore.pipeline.hessians import SharedHessian, hessians_of, portioned
from quantcore.pipeline.layers import (
    LayerReport,
    Made,
    counted,
    left_float_report,
    quantize_sets,
    quantize_together,
    reports_of,
    static_qparams,
)
from quantcore.pipeline.outputs import OutputSums
from quantcore.pipeline.owners import Members, solve_shared
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.seen import FloatSide, Passing, Seen, has_hessians
from quantcore.pipeline.treated import Treated, changed, treated
from quantcore.scheme.fitting import plan_for, require_fits
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme, coded_under

READ, CALIBRATE, SOLVE = "read", "calibrate", "solve"
Source = nn.Module | LoadedModel | Held
Refuse = Callable[[str, ValueError], None]


@dataclass(frozen=True)
class Part:
    """A decoder block, or (name "") what lies outside of the blocks.

    original   float, as the model has it, on the device until the next part is asked for
    module     its quantized form, which shares what stays float; `original` itself where all stays float
    root       a module that holds `module` under its full name
    treated    float tensors that the plan's transforms changed, by full name
    layers     every QuantLinear of it by full name
    reports    of each of them, then of each matrix that stays float because it cannot be quantized
    seconds    READ: waiting for its weights, CALIBRATE: the text through it, SOLVE: its codes; on the device"""

    name: str
    original: nn.Module
    module: nn.Module
    root: nn.Module
    treated: dict[str, Tensor]
    layers: dict[str, QuantLinear]
    reports: tuple[LayerReport, ...]
    seconds: dict[str, float]


def parts(
    source: Source,
    scheme: Scheme | Plan | str,
    calibration: Tensor | None = None,
    *,
    measured: Tensor | None = None,
    stats: Mapping[str, LayerStats] | None = None,
    sequential: bool = True,
    progress: Progress | None = None,
) -> Iterator[Part]:
    """The blocks of a model in order, each quantized, then the part outside of them; nothing of a part is kept here
    once the next is asked for.

    calibration  text (windows, T), for GPTQ and static ranges
    measured     text (windows, T), whose first OUTPUT_TOKENS tokens measure each layer's output error; None: no such
    stats        recorded ranges and Hessians, where they were taken before; else they are taken here
    sequential   False: GPTQ's Hessians all come from the float model (then `stats` with Hessians are used as they are)
    progress     called after each layer; an exception that it raises ends the work, and nothing is changed
    Raises: ValueError before any work for a plan that does not fit the model or lacks its text; later, with the layer's
    name, for NaN or Inf in a weight; CholeskyError of `gptq`."""
    found = parts_of_plans(
        source,
        {"": plan_for(scheme, linear_shapes(held(source).skeleton))},
        calibration,
        measured=measured,
        stats=stats,
        sequential=sequential,
        progress=progress,
    )
    return (together[""] for together in found)


def parts_of_plans(
    source: Source,
    plans: Mapping[str, Plan],
    calibration: Tensor | None = None,
    *,
    measured: Tensor | None = None,
    stats: Mapping[str, LayerStats] | None = None,
    sequential: bool = True,
    starts: Mapping[str, Held] | None = None,
    labels: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    refuse: Refuse | None = None,
) -> Iterator[dict[str, Part]]:
    """`parts` of several plans, by the names that the caller gave them: of each block one for every plan.

    starts   the models that `treated` gives under the plans' transforms, where they are known already
    labels   what stands before what is said of a plan's progress and refusals; its name where none is given
    refuse   called with a plan's name and what is refused of it on the way (NaN in a weight, no Cholesky factor); the
             others go on without it. None: such an error ends the work"""
    model = held(source)
    roads = {}
    for name, plan in plans.items():
        label = (labels or {}).get(name, name)
        with _labelled(label):
            _require_stats_fit(plan, stats)
            mine = (starts or {}).get(name) or treated(model, plan, calibration)
            schemes, _ = planned(mine, plan)
            _require_text(plan, schemes, calibration, stats, sequential)
            read = 0 if calibration is None else calibration.numel()
            roads[name] = _Road(label, mine, schemes, calibration if sequential else None, read)
    sides: dict[int, _Side] = {}
    for name, road in roads.items():
        sides.setdefault(id(road.model), _Side(road.model, {})).roads[name] = road
    for side in sides.values():
        together = [road.schemes for road in side.roads.values()]
        side.floats = FloatSide(side.model, together, calibration, measured, stats, sequential)
    return _parts(model.base if isinstance(model, Treated) else model, list(sides.values()), progress, refuse)


def planned(model: Held, plan: Plan) -> tuple[dict[str, Scheme], Size]:
    """The scheme of every Linear that the plan quantizes, and the size of the model then.

    Raises: ValueError for a plan that does not fit the model, and a tile that does not divide a layer."""
    require_plan(model.skeleton, plan)
    if not plan.is_float:
        require_much(model.skeleton)
    shapes = linear_shapes(model.skeleton)
    head = head_of(model.skeleton)
    require_fits(plan, shapes, head)
    schemes = plan.schemes_of(shapes, head)
    return schemes, model_size(model.skeleton, coded_under(shapes, schemes))


def _require_stats_fit(plan: Plan, stats: Mapping[str, LayerStats] | None) -> None:
    if stats and plan.transforms:
        raise ValueError(
            f"{plan} changes what enters the layers, so ranges that were recorded before say nothing of it; give "
            "calibration= in place of stats="
        )


def _require_text(
    plan: Plan,
    schemes: Mapping[str, Scheme],
    calibration: Tensor | None,
    stats: Mapping[str, LayerStats] | None,
    sequential: bool,
) -> None:
    if any(one.needs_drift for one in schemes.values()) and not ranks().alone:
        raise ValueError(
            f"{plan} compares two streams of inputs, which several ranks do not yet; run one, or take gptq"
        )
    if calibration is not None:
        return
    if not stats and any(one.needs_ranges for one in schemes.values()):
        raise ValueError(f"{plan} freezes activation ranges, so it needs calibration tokens; give tokens=")
    by_hessian = [name for name, one in schemes.items() if one.needs_hessian]
    if by_hessian and (sequential or not has_hessians(stats, by_hessian)):
        raise ValueError(f"{plan} weighs errors with the layers' inputs, so it needs text; give calibration=")


class _Road:
    """One plan on its way: which layers of each part it quantizes, and the text behind what it has quantized."""

    def __init__(
        self, label: str, model: Held, schemes: dict[str, Scheme], calibration: Tensor | None, read: int
    ) -> None:
        """calibration: for Hessians behind the quantized blocks; None where they come from elsewhere. read: tokens of
        the calibration text."""
        self.label, self.model, self.schemes, self.clock = label, model, schemes, Clock(model.device)
        self.names = by_block(model.blocks, schemes)
        self._why_float = why_float(model.skeleton) if schemes else {}
        self._left = by_block(model.blocks, self._why_float)
        self._sets: dict[str, list[str]] = {}  # by its first layer, what was solved together
        self._read = read
        by_hessian = [name for name, one in schemes.items() if one.needs_hessian]
        self._text = self._float_text = None
        by_drift = [name for name, one in schemes.items() if one.needs_drift]
        if by_hessian and calibration is not None:
            self._text = Passing(model, ranks().share(calibration), by_hessian)
            if by_drift:
                self._float_text = Passing(model, ranks().share(calibration), by_drift)

    def make(self, name: str, root: nn.Module, module: nn.Module, floats: Seen) -> dict[str, Made]:
        """The layers of a part, quantized; those that read one input together."""
        layers, found = every_linear(root), dict[str, Made]()
        schemes = {one: self.schemes[one] for one in self.names[name]}
        portions = [schemes] if self._text is None else portioned(schemes, layers, module)
        for portion in portions:
            found |= self._made(name, layers, module, floats, portion)
        return {one: found[one] for one in self.names[name]}

    def _made(
        self, name: str, layers: Mapping[str, nn.Linear], module: nn.Module, floats: Seen, schemes: Mapping[str, Scheme]
    ) -> dict[str, Made]:
        """Those of a part's layers whose Hessians are held at a time."""
        found: dict[str, Made] = {}
        ranges, mine = floats.ranges_for(schemes), floats.hessians_for(schemes)
        if self._text is not None:
            with self.clock.piece(CALIBRATE):
                mine = self._hessians(name, module, self._text, schemes)
        members = {one: (layers[one], scheme) for one, scheme in schemes.items()}
        tokens = self._tokens(mine, ranges, schemes)
        if not ranks().alone and any(scheme.needs_hessian for scheme in schemes.values()):
            found = self._shared(mine, members, ranges, summed=self._text is None and floats.whole)
            mine = []
        known = {*found, *(one for shared in mine for one in shared.layers)}
        for sets in _alike(mine, members):
            first = sets[0].layers[0]
            with self.clock.piece(first):
                found |= quantize_sets(
                    [({one: members[one] for one in each.layers}, each.hessian, each.drift) for each in sets], ranges
                )
            self._sets[first] = [one for each in sets for one in each.layers]
        for one in (name for name in members if name not in known):
            layer, scheme = members[one]
            if scheme.needs_hessian:  # no token came here
                scheme = scheme.without_text
            with self.clock.piece(one):
                found |= quantize_together({one: (layer, scheme)}, ranges, None)
            self._sets[one] = [one]
        for one, count in tokens.items():
            found[one].report = counted(found[one].report, self.schemes[one], count, self._read)
        return found

    def _hessians(
        self, name: str, module: nn.Module, text: Passing, schemes: Mapping[str, Scheme]
    ) -> list[SharedHessian]:
        """Those of a part, behind what is quantized already."""
        wanted = [one for one in text.wanted[name] if one in schemes]
        found: list[SharedHessian] = []
        ways = list(dict.fromkeys((schemes[one].every_token, schemes[one].needs_drift) for one in wanted))
        for every, drift in ways:
            rest = [one for one in ways if one[1] and one != (every, drift)]
            mine = [one for one in wanted if (schemes[one].every_token, schemes[one].needs_drift) == (every, drift)]
            floats = None
            if drift and self._float_text is not None:
                floats = self._float_text.passing(module, last=len(schemes) == len(self.names[name]) and not rest)
            found += hessians_of(module, name, mine, text.walk, every, floats)
        return found

    def _tokens(
        self, mine: list[SharedHessian], ranges: Mapping[str, LayerStats], schemes: Mapping[str, Scheme]
    ) -> dict[str, int]:
        """How many tokens of the calibration text each layer of a part has seen that needs to, on all ranks."""
        seen = dict.fromkeys((one for shared in mine for one in shared.layers), 0)
        for shared in mine:
            seen |= dict.fromkeys(shared.layers, shared.tokens)
        said = ranks().all_said(seen) if any(scheme.needs_hessian for scheme in schemes.values()) else [seen]
        return {
            one: sum(counts.get(one, 0) for counts in said) if scheme.needs_hessian else ranges[one].tokens
            for one, scheme in schemes.items()
            if scheme.needs_hessian or (scheme.needs_ranges and one in ranges)
        }

    def _shared(
        self, mine: list[SharedHessian], members: Members, ranges: Mapping[str, LayerStats], summed: bool
    ) -> dict[str, Made]:
        """The sets of layers with a Hessian, each solved by one of the ranks."""
        statics = {one: static_qparams(scheme.activations, ranges.get(one)) for one, (_, scheme) in members.items()}

        def solve(together: Members, hessian: Tensor) -> dict[str, Made]:
            return quantize_together(together, ranges, hessian)

        first = next(iter(members))
        with self.clock.piece(first):
            if self._text is None:  # another plan wants them too
                mine = [shared._replace(hessian=shared.hessian.clone()) for shared in mine]
            sets = [(shared.hessian, shared.layers) for shared in mine]
            found = solve_shared(sets, members, statics, solve, summed)
        self._sets[first] = list(found)
        return found

    def part(
        self, name: str, original: nn.Module, root: nn.Module, made: Mapping[str, Made], windows: int, read_s: float
    ) -> Part:
        """What `make` made, once the device is done with it; `root` holds the part as the transforms left it."""
        reports = dict(zip(made, reports_of(made.values(), windows), strict=True))
        seconds = self.clock.seconds()
        calibrate = seconds.pop(CALIBRATE, 0.0)
        for first, spent in seconds.items():
            together = {one: math.prod(reports[one].shape) for one in self._sets.pop(first)}
            for one, numbers in together.items():
                reports[one] = replace(reports[one], seconds=spent * numbers / sum(together.values()))
        layers = {one: layer.layer for one, layer in made.items()}
        copied = copy_with(root, layers) if layers else root
        after = {} if root.get_submodule(name) is original else changed(original, root.get_submodule(name))
        full = {f"{name}.{key}".removeprefix("."): one for key, one in after.items()}
        floats = {key: one for key, one in full.items() if key.rpartition(".")[0] not in layers}
        rest = [left_float_report(key, root.get_parameter(key), self._why_float[key]) for key in self._left[name]]
        return Part(
            name, original, copied.get_submodule(name), copied, floats, layers, (*reports.values(), *rest),
            {READ: read_s, CALIBRATE: calibrate, SOLVE: sum(seconds.values())},
        )  # fmt: skip

    def advance(self, floats: nn.Module, block: nn.Module) -> None:
        """Take the texts past a block, in float and quantized."""
        with self.clock.piece(CALIBRATE):
            if self._float_text is not None:
                self._float_text.advance(floats)
            if self._text is not None:
                self._text.advance(block)


def _alike(sets: list[SharedHessian], members: Members) -> list[list[SharedHessian]]:
    """The sets, those together whose layers are experts of the same shapes and schemes."""
    found: dict[object, list[SharedHessian]] = {}
    for one in sets:
        likeness: object = one.layers[0]
        if all(expert_of(name) for name in one.layers):
            likeness = tuple((tuple(members[name][0].weight.shape), members[name][1]) for name in one.layers)
        found.setdefault(likeness, []).append(one)
    return list(found.values())


class _Side:
    """Roads that start from one model: the source, or what a plan's transforms leave of it."""

    floats: FloatSide

    def __init__(self, model: Held, roads: dict[str, _Road]) -> None:
        self.model, self.roads = model, roads
        self._here: nn.Module | None = None

    def enter(self, name: str, original: nn.Module) -> nn.Module:
        """The part of this side's model; `original` as the source has it."""
        if not isinstance(self.model, Treated):
            self._here = original
        else:
            self._here = self.model.of_block(name, original) if name else self.model.end()
        return self._here

    def advance(self, together: Mapping[str, Part]) -> None:
        assert self._here is not None
        self.floats.advance(self._here)
        for plan, road in self.roads.items():
            road.advance(self._here, together[plan].module)
        self._here = None


def _parts(
    model: Held, sides: list[_Side], progress: Progress | None, refuse: Refuse | None
) -> Iterator[dict[str, Part]]:
    count, done = sum(len(road.schemes) for side in sides for road in side.roads.values()), 0

    def tell(label: str, name: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done / count, f"{label}: quantizing {name}" if label else name)

    def refused(side: _Side, plan: str, error: ValueError) -> None:
        if refuse is None or not ranks().alone:  # ranks answer together or not at all
            raise error
        refuse(plan, error)
        del side.roads[plan]

    def entered(side: _Side, name: str, original: nn.Module) -> nn.Module | None:
        """The side's part; None where its model cannot be transformed, and so none of its roads goes on."""
        try:
            return side.enter(name, original)
        except ValueError as error:
            for plan, road in list(side.roads.items()):
                refused(side, plan, type(error)(f"{road.label}: {error}") if road.label else error)
            return None

    def made(name: str, original: nn.Module, read_s: float = 0.0) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for side in sides:
            if side.roads and (part := entered(side, name, original)) is not None:
                found |= of_side(side, name, original, part, read_s)
        return found

    def of_side(side: _Side, name: str, original: nn.Module, part: nn.Module, read_s: float) -> dict[str, Part]:
        root, seen = holding({name: part}), side.floats.see(name, part)
        found: dict[str, dict[str, Made]] = {}
        sums: dict[str, list[OutputSums]] = {}
        for plan, road in list(side.roads.items()):
            try:
                with _labelled(road.label):
                    found[plan] = road.make(name, root, part, seen)
            except ValueError as error:
                refused(side, plan, error)
                continue
            for layer, one in found[plan].items():
                sums.setdefault(layer, []).append(one.output)
                tell(road.label, layer)
        side.floats.compare(name, part, sums)
        windows = side.floats.windows
        return {
            plan: road.part(name, original, root, found[plan], windows, read_s) for plan, road in side.roads.items()
        }

    with closing(model.in_turn()) as blocks:
        asked = time.perf_counter()
        for name, block in blocks:
            together = made(name, block, time.perf_counter() - asked)
            yield together
            for side in sides:
                if side.roads:
                    side.advance(together)
            del together, block
            asked = time.perf_counter()
    yield made("", model.around)


@contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Refusals of one plan among several begin with its name."""
    try:
        yield
    except ValueError as error:
        if not label:
            raise
        raise type(error)(f"{label}: {error}") from error
