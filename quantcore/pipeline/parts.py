"""The one road: a model and a plan become parts, decoder block by decoder block, each in float and quantized.

    for part in parts(loaded, "W4A16,gptq", text): ...         # part.layers: {name: QuantLinear}

Whoever wants a quantized model, a comparison or a checkpoint takes the parts as they come. It makes no difference
whether the model is in memory or in its files: the same functions work on the same numbers in the same order, and
beside what the source holds, memory takes a block in float and quantized, the Hessians of one block, and the hidden
states of the texts. Several plans go the way together, and read each block once.

GPTQ is sequential: the Hessians of a block are taken behind the blocks that are quantized already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager

from torch import Tensor, nn

from quantcore.matmul.size import model_size, quantized_linears
from quantcore.model.held import Held, held
from quantcore.model.linears import head_of, linear_shapes, require_plan
from quantcore.model.loading import LoadedModel
from quantcore.model.places import holding
from quantcore.model.wholeness import require_much
from quantcore.numbers.bits import Size
from quantcore.pipeline.calibration import LayerStats, Progress
from quantcore.pipeline.layers import Made
from quantcore.pipeline.outputs import OutputSums
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.road import Part, Road
from quantcore.pipeline.seen import FloatSide, has_hessians
from quantcore.pipeline.treated import Treated, treated
from quantcore.scheme.fitting import plan_for, require_fits
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme, coded_under

Source = nn.Module | LoadedModel | Held
Refuse = Callable[[str, ValueError], None]


def parts(
    source: Source,
    scheme: Scheme | Plan | str,
    calibration: Tensor | None = None,
    *,
    measured: Tensor | None = None,
    stats: Mapping[str, LayerStats] | None = None,
    sequential: bool = True,
    weighed: bool = True,
    progress: Progress | None = None,
) -> Iterator[Part]:
    """The blocks of a model in order, each quantized, then the part outside of them; nothing of a part is kept here
    once the next is asked for.

    calibration  text (windows, T), for GPTQ and static ranges
    measured     text (windows, T), whose first OUTPUT_TOKENS tokens measure each layer's output error; None: no such
    stats        recorded ranges and Hessians, where they were taken before; else they are taken here
    sequential   False: GPTQ's Hessians all come from the float model (then `stats` with Hessians are used as they are)
    weighed      False: reports without errors of the weights, which take a third of the time of rounding
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
        weighed=weighed,
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
    weighed: bool = True,
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
    require_float(model.skeleton)
    roads = {}
    for name, plan in plans.items():
        label = (labels or {}).get(name, name)
        with _labelled(label):
            _require_stats_fit(plan, stats)
            mine = (starts or {}).get(name) or treated(model, plan, calibration)
            schemes, _ = planned(mine, plan)
            _require_text(plan, schemes, calibration, stats, sequential)
            read = 0 if calibration is None else calibration.numel()
            roads[name] = Road(label, mine, schemes, calibration if sequential else None, read, weighed)
    sides: dict[int, _Side] = {}
    for name, road in roads.items():
        sides.setdefault(id(road.model), _Side(road.model, {})).roads[name] = road
    for side in sides.values():
        together = [road.schemes for road in side.roads.values()]
        side.floats = FloatSide(side.model, together, calibration, measured, stats, sequential)
    return _parts(model.base if isinstance(model, Treated) else model, list(sides.values()), progress, refuse)


def require_float(model: nn.Module) -> None:
    """Raises: ValueError for a model some of whose layers are codes already."""
    if coded := list(quantized_linears(model)):
        raise ValueError(
            f"{len(coded)} layers of this {type(model).__name__} are codes already (the first is {coded[0]!r}), so "
            "what another scheme costs could not be told; give the float model that it was made from"
        )


def planned(model: Held, plan: Plan) -> tuple[dict[str, Scheme], Size]:
    """The scheme of every Linear that the plan quantizes, and the size of the model then.

    Raises: ValueError for a plan that does not fit the model, and a tile that does not divide a layer."""
    require_plan(model.skeleton, plan)
    if not plan.is_float:
        require_much(model.skeleton)
    if plan.kv is not None:
        from quantcore.pipeline.cache import require_cache  # transformers takes long to import

        require_cache(model.skeleton.config, plan.kv)
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
    if calibration is not None:
        return
    if plan.kv is not None and plan.kv.needs_ranges:
        raise ValueError(f"{plan} freezes ranges of the cache, so it needs calibration tokens; give calibration=")
    if not stats and any(one.needs_ranges for one in schemes.values()):
        raise ValueError(f"{plan} freezes activation ranges, so it needs calibration tokens; give calibration=")
    by_hessian = [name for name, one in schemes.items() if one.needs_hessian]
    if by_hessian and (sequential or not has_hessians(stats, by_hessian)):
        raise ValueError(f"{plan} weighs errors with the layers' inputs, so it needs text; give calibration=")


class _Side:
    """Roads that start from one model: the source, or what a plan's transforms leave of it."""

    floats: FloatSide

    def __init__(self, model: Held, roads: dict[str, Road]) -> None:
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
                refused(side, plan, _labelled_error(error, road.label))
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
        raise _labelled_error(error, label) from error


def _labelled_error(error: ValueError, label: str) -> ValueError:
    return type(error)(f"{label}: {error}") if label else error
