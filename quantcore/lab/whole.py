"""Questions about the whole model: schemes side by side, rules, which layers hurt, a plan for a budget, what it writes.

Each takes seconds to minutes, tells `progress` how far it is and `so_far` what is known by then, and keeps its answer
in the store; `kept_...` gives that answer where it is there already, else None. Browser, shell and notebook ask through
these functions, so each finds what the others have measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quantcore.lab.bench import EACH, LEARNED, MEASURED, PLANNED_ON, Bench
from quantcore.lab.memo import remembered
from quantcore.matmul.decoded import decoded
from quantcore.measure.duel import Duel, known
from quantcore.measure.duel import duel as measure_duel
from quantcore.measure.luck import Spread, jittered
from quantcore.measure.planning import PlannedChoice, of_a_kind, plan_for_budget
from quantcore.measure.planning import plan_trail as trail_of
from quantcore.measure.probing import ProbedPlan
from quantcore.measure.rules import Rule, RuleResult, best_practice
from quantcore.measure.scores import ModelReport
from quantcore.measure.sensitivity import LayerCosts, Sensitivity, joined, texts_on
from quantcore.measure.side_by_side import compare_plans
from quantcore.numbers.bits import Size, layer_size
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.pipeline.convert import quantized_copy
from quantcore.pipeline.layers import LayerReport
from quantcore.scheme.fitting import sorted_out
from quantcore.studies.generation import Written
from quantcore.studies.generation import write_on as write
from quantcore.studies.plans import WAYS, kept_costs, read_probed_plan
from quantcore.studies.plans import kept_sensitivity as measure_sensitivity
from quantcore.studies.plans import probed_plan as measure_probed_plan

SoFar = Callable[[Any], None]
WRITTEN = 48  # tokens


def duel(
    lab: Bench,
    schemes: Sequence[str],
    reading: str = MEASURED,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Duel:
    """Schemes or plans on the whole model, on one text, with intervals and paired differences; those that the model
    cannot take are in `refused`.

    Raises: ValueError, before anything is loaded or read, where it can take none."""
    able, refused = sorted_out(schemes, lab.shapes(), lab.head)
    if not able and refused:
        text, reason = next(iter(refused.items()))
        raise ValueError(f"{text}: {reason}")
    tokens, learned = lab.tokens(reading), lab.tokens(calibration)
    kept_in = lab.store(reading, calibration)
    return measure_duel(lab.whole, schemes, tokens, learned, kept_in, lab.hash, progress, so_far)


def kept_duel(lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED) -> Duel | None:
    if not _all_kept(lab, schemes, reading, calibration):
        return None
    return _read_duel(lab, tuple(schemes), reading, calibration)


def _all_kept(lab: Bench, schemes: Sequence[str], reading: str, calibration: str) -> bool:
    """Of those that the model can take; False where it can take none."""
    able, _ = sorted_out(schemes, lab.shapes(), lab.head)
    return bool(able) and len(kept_schemes(lab, tuple(able), reading, calibration)) == len(able)


def kept_schemes(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> tuple[str, ...]:
    """The texts in full of those schemes that were measured on these texts already."""
    read = lab.tokens(reading), lab.tokens(calibration)
    return tuple(known(lab.whole, schemes, *read, lab.store(reading, calibration), lab.hash))


def luck(
    lab: Bench,
    schemes: Sequence[str],
    reading: str = MEASURED,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> dict[str, Spread]:
    """How far rounding luck alone moves each scheme's KL on this text: the scheme's own and those of its jitters, one
    scheme after another."""
    able, _ = sorted_out(schemes, lab.shapes(), lab.head)
    found: dict[str, Spread] = {}
    for place, text in enumerate(able.values()):
        measured = duel(lab, [text, *jittered(text)], reading, calibration, part_of(progress, place, len(able)))
        if text in measured.reports:
            found[text] = spread_of(measured)
    return found


def kept_luck(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> dict[str, Spread] | None:
    able, _ = sorted_out(schemes, lab.shapes(), lab.head)
    found = known_luck(lab, schemes, reading, calibration)
    return found if len(found) == len(able) else None


def known_luck(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> dict[str, Spread]:
    """Of those schemes whose luck was measured on these texts."""
    able, _ = sorted_out(schemes, lab.shapes(), lab.head)
    begun = [text for text in able.values() if _all_kept(lab, (text, *jittered(text, 1)), reading, calibration)]
    kept = {text: kept_duel(lab, (text, *jittered(text)), reading, calibration) for text in begun}
    return {text: spread_of(one) for text, one in kept.items() if one is not None}


def spread_of(measured: Duel) -> Spread:
    """Of a duel of a scheme with its own jitters."""
    return Spread(tuple(report.kl for report in measured.reports.values()))


@remembered(64)
def _read_duel(lab: Bench, schemes: tuple[str, ...], reading: str, calibration: str) -> Duel:
    """A duel whose every answer is kept, so that nothing is measured."""
    return duel(lab, schemes, reading, calibration)


@dataclass(frozen=True)
class Evaluation:
    """A quantized copy beside its model: the figures, and what quantizing said of each layer."""

    report: ModelReport
    layers: tuple[LayerReport, ...]


def evaluate(
    lab: Bench,
    plan: str,
    reading: str = MEASURED,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Evaluation:
    """One plan on one text, each layer's output error measured on all of it; asked anew each time."""
    lab.require_fits(plan)
    wanted, tokens = lab.plan_of(plan), lab.tokens(reading)
    learned = lab.tokens(calibration) if wanted.needs_text else None
    name = wanted.label
    found = compare_plans(lab.whole, {name: wanted}, tokens, learned, measured=tokens, progress=progress)
    return Evaluation(found.comparison.reports[name], tuple(found.layers[name]))


def rule(
    lab: Bench,
    key: str,
    reading: str = MEASURED,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> RuleResult:
    """Whether a rule of best practice holds on this model, by its key in `best_practice`; with the rounding luck of its
    schemes where `luck` has measured that."""
    read, kept_in = (lab.tokens(reading), lab.tokens(calibration)), lab.store(reading, calibration)
    found = _rule_named(key).test(lab.loaded, *read, kept_in, lab.hash, progress, so_far)
    return found.with_luck(known_luck(lab, tuple(found.duel.reports), reading, calibration))


def kept_rule(lab: Bench, key: str, reading: str = MEASURED, calibration: str = LEARNED) -> RuleResult | None:
    found = _rule_named(key).on(lab.shapes())
    able, _ = sorted_out((found.scheme, *found.challengers), lab.shapes(), lab.head)
    if len(kept_schemes(lab, tuple(able), reading, calibration)) < len(able):
        return None
    result = _read_rule(lab, key, reading, calibration)
    return result.with_luck(known_luck(lab, tuple(result.duel.reports), reading, calibration))


@remembered(64)
def _read_rule(lab: Bench, key: str, reading: str, calibration: str) -> RuleResult:
    return rule(lab, key, reading, calibration)


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
    asked = tuple(schemes), all_but, reading, calibration, estimated
    if lab.remembers(_read_sensitivity, *asked):
        return _read_sensitivity(lab, *asked)
    costs = _kept_costs(lab, *asked)
    return _read_sensitivity(lab, *asked) if costs and all(costs) else None


def _kept_costs(
    lab: Bench, schemes: tuple[str, ...], all_but: bool, reading: str, calibration: str, estimated: bool
) -> list[LayerCosts | None]:
    tokens, learned, kept_in = lab.tokens(reading), lab.tokens(calibration), lab.store(reading, calibration)
    way = WAYS[all_but, estimated]
    return [
        kept_costs(lab.loaded, one, tokens, learned, kept_in, way, lab.hash) for one in texts_on(lab.model, schemes)
    ]


@remembered(32)
def _read_sensitivity(
    lab: Bench, schemes: tuple[str, ...], all_but: bool, reading: str, calibration: str, estimated: bool
) -> Sensitivity:
    """One whose every scheme is kept, so that nothing is measured."""
    return joined([one for one in _kept_costs(lab, schemes, all_but, reading, calibration, estimated) if one])


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


def write_on(
    lab: Bench,
    scheme: str,
    prompt: str,
    count: int = WRITTEN,
    seed: int | None = None,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Written:
    """The model and its quantized copy write on from one prompt; without a seed the likeliest token each time."""
    learned = lab.tokens(calibration) if lab.plan_of(scheme).needs_text else None
    copy = quantized_copy(lab.model, scheme, calibration=learned, progress=part_of(progress, 0, 2))
    return write(lab.loaded, decoded(copy), prompt, count, seed, part_of(progress, 1, 2))


def _rule_named(key: str) -> Rule:
    found = {one.key: one for one in best_practice()}
    if key not in found:
        raise ValueError(f"no rule is called {key!r}; try {', '.join(found)}")
    return found[key]
