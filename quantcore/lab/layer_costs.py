"""What each layer of a model costs, and plans made of it: which layers hurt, the best plan for a budget of bits.

As in `lab.whole`, what takes long is kept in the store, and `kept_...` gives it where it is there already, else None.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantcore.lab.bench import EACH, LEARNED, PLANNED_ON, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.whole import SoFar
from quantcore.measure.planning import PlannedChoice, of_a_kind, plan_for_budget
from quantcore.measure.planning import plan_trail as trail_of
from quantcore.measure.probing import ProbedPlan
from quantcore.measure.sensitivity import LayerCosts, Sensitivity, joined, texts_on
from quantcore.numbers.bits import Size, layer_size
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.studies.plans import WAYS, kept_costs, read_probed_plan
from quantcore.studies.plans import kept_sensitivity as measure_sensitivity
from quantcore.studies.plans import probed_plan as measure_probed_plan


def sensitivity(
    lab: Bench,
    schemes: Sequence[str],
    all_but: bool = False,
    reading: str = EACH,
    calibration: str = LEARNED,
    estimated: bool = False,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Sensitivity:
    """What each layer costs when it alone is quantized, or (`all_but`) left out of quantizing all; `so_far` hears the
    costs of one scheme's layers. `estimated`: for all layers at once, from a few backward passes (`measure.fisher`)."""
    kept = kept_sensitivity(lab, schemes, all_but, reading, calibration, estimated)
    if kept is not None:
        return kept
    lab.require_fits(*schemes)
    return measure_sensitivity(
        lab.loaded,
        schemes,
        lab.tokens(reading),
        lab.tokens(calibration),
        lab.store(reading, calibration),
        all_but=all_but,
        estimated=estimated,
        hashed=lab.hash,
        progress=progress,
        so_far=None if so_far is None else lambda _, costs: so_far(costs),
    )


def kept_sensitivity(
    lab: Bench,
    schemes: Sequence[str],
    all_but: bool = False,
    reading: str = EACH,
    calibration: str = LEARNED,
    estimated: bool = False,
) -> Sensitivity | None:
    try:
        return _read_sensitivity(lab, tuple(schemes), all_but, reading, calibration, estimated)
    except _NotKept:
        return None


class _NotKept(Exception):
    """Something is not measured yet. Errors are not remembered, so who asks later finds what came meanwhile."""


@remembered(32)
def _read_sensitivity(
    lab: Bench, schemes: tuple[str, ...], all_but: bool, reading: str, calibration: str, estimated: bool
) -> Sensitivity:
    """One whose every scheme is kept, so that nothing is measured. Raises: _NotKept."""
    tokens, learned, kept_in = lab.tokens(reading), lab.tokens(calibration), lab.store(reading, calibration)
    way, found = WAYS[all_but, estimated], list[LayerCosts]()
    for text in texts_on(lab.model, schemes):
        costs = kept_costs(lab.loaded, text, tokens, learned, kept_in, way, lab.hash)
        if costs is None:
            raise _NotKept
        found.append(costs)
    if not found:
        raise _NotKept
    return joined(found)


@remembered(64)
def plan(
    lab: Bench,
    schemes: Sequence[str],
    budget: float,
    reading: str = PLANNED_ON,
    calibration: str = LEARNED,
    estimated: bool = True,
    by_kind: bool = False,
) -> PlannedChoice:
    """The plan of at most `budget` bits a weight whose layers cost least, by their estimated costs or by those that
    were measured; below the smallest scheme, that scheme. by_kind: one scheme for each kind of layer, `q_proj`, in all
    blocks."""
    found = sensitivity(lab, schemes, False, reading, calibration, estimated)
    least = min(uniform_bits(found).values())
    return plan_for_budget(found, max(budget + 1e-6, least), of_a_kind if by_kind else None)


def probed_plan(
    lab: Bench,
    schemes: Sequence[str],
    budget: float,
    reading: str = PLANNED_ON,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> ProbedPlan:
    """The plan by estimated costs, mended in place: other schemes for each layer are tried in the plan itself."""
    if (kept := kept_probed_plan(lab, schemes, budget, reading, calibration)) is not None:
        return kept
    found = sensitivity(lab, schemes, False, reading, calibration, True, part_of(progress, 0, 4))
    return measure_probed_plan(
        lab.loaded,
        found,
        budget,
        lab.tokens(reading),
        lab.tokens(calibration),
        lab.store(reading, calibration),
        hashed=lab.hash,
        progress=None if progress is None else lambda share, doing: progress(0.25 + 0.75 * share, doing),
    )


def kept_probed_plan(
    lab: Bench, schemes: Sequence[str], budget: float, reading: str = PLANNED_ON, calibration: str = LEARNED
) -> ProbedPlan | None:
    texts, read = texts_on(lab.model, schemes), (lab.tokens(reading), lab.tokens(calibration))
    return read_probed_plan(lab.loaded, texts, budget, *read, lab.store(reading, calibration), lab.hash)


def uniform_bits(found: Sensitivity) -> dict[str, float]:
    """Bits a weight of each scheme on all layers."""
    return {text: found.mean_bits(dict.fromkeys(found.layers, text)) for text in found.schemes}


@remembered(64)
def planned_weights(lab: Bench, schemes: tuple[str, ...]) -> int:
    """How many weights a plan made of these schemes speaks of: those of the layers that none of them skips."""
    asked = [lab.scheme_of(one) for one in schemes]
    return sum(
        rows * columns for name, (rows, columns) in lab.shapes().items() if not any(one.skips(name) for one in asked)
    )


@remembered(64)
def bits_of_all(lab: Bench, scheme: str) -> float:
    """Bits a weight, scales counted, where one scheme is on all layers that it quantizes."""
    known = lab.scheme_of(scheme)
    coded = (known.coded(shape) for name, shape in lab.shapes().items() if not known.skips(name))
    return sum((layer_size(one) for one in coded if one is not None), Size()).bits_per_weight


@remembered(16)
def plan_trail(
    lab: Bench, schemes: tuple[str, ...], reading: str = PLANNED_ON, calibration: str = LEARNED, estimated: bool = True
) -> tuple[tuple[float, float], ...]:
    """Bits per weight and predicted KL of plans from the smallest to the one that loses least."""
    return trail_of(sensitivity(lab, schemes, False, reading, calibration, estimated))
