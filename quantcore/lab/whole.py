"""Questions about the whole model under a scheme: several side by side, rules, rounding luck, what it writes.

Each takes seconds to minutes, tells `progress` how far it is and `so_far` what is known by then, and keeps its answer
in the store; `kept_...` gives that answer where it is there already, else None. Browser, shell and notebook ask through
these functions, so each finds what the others have measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quantcore.lab.bench import LEARNED, MEASURED, Bench
from quantcore.lab.memo import remembered
from quantcore.matmul.decoded import decoded
from quantcore.measure.duel import Duel, known
from quantcore.measure.duel import duel as measure_duel
from quantcore.measure.luck import Spread, jittered
from quantcore.measure.rules import Rule, RuleResult, best_practice
from quantcore.measure.scores import ModelReport
from quantcore.measure.side_by_side import compare_plans
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.pipeline.convert import quantized_copy
from quantcore.pipeline.layers import LayerReport
from quantcore.studies.generation import Written
from quantcore.studies.generation import write_on as write

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
    able, refused = lab.sorted_out(schemes)
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
    able = lab.able(schemes)
    return bool(able) and len(kept_schemes(lab, able, reading, calibration)) == len(able)


def kept_schemes(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> tuple[str, ...]:
    """The texts in full of those schemes that were measured on these texts already."""
    read = lab.tokens(reading), lab.tokens(calibration)
    return tuple(known(lab.by_block(), schemes, *read, lab.store(reading, calibration), lab.hash))


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
    able = lab.able(schemes)
    found: dict[str, Spread] = {}
    for place, text in enumerate(able):
        measured = duel(lab, [text, *jittered(text)], reading, calibration, part_of(progress, place, len(able)))
        if text in measured.reports:
            found[text] = spread_of(measured)
    return found


def kept_luck(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> dict[str, Spread] | None:
    found = known_luck(lab, schemes, reading, calibration)
    return found if len(found) == len(lab.able(schemes)) else None


def known_luck(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> dict[str, Spread]:
    """Of those schemes whose luck was measured on these texts."""
    begun = {text: (text, *jittered(text, 1)) for text in lab.able(schemes)}
    there = set(kept_schemes(lab, [one for both in begun.values() for one in both], reading, calibration))
    asked = [text for text, both in begun.items() if there.issuperset(both)]
    kept = {text: kept_duel(lab, (text, *jittered(text)), reading, calibration) for text in asked}
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
    wanted, tokens, learned = lab.plan_of(plan), lab.tokens(reading), lab.text_for(plan, calibration)
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
    able = lab.able((found.scheme, *found.challengers))
    if len(kept_schemes(lab, able, reading, calibration)) < len(able):
        return None
    result = _read_rule(lab, key, reading, calibration)
    return result.with_luck(known_luck(lab, tuple(result.duel.reports), reading, calibration))


@remembered(64)
def _read_rule(lab: Bench, key: str, reading: str, calibration: str) -> RuleResult:
    return rule(lab, key, reading, calibration)


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
    copy = quantized_copy(lab.model, scheme, lab.text_for(scheme, calibration), part_of(progress, 0, 2))
    return write(lab.loaded, decoded(copy), prompt, count, seed, part_of(progress, 1, 2))


def _rule_named(key: str) -> Rule:
    found = {one.key: one for one in best_practice()}
    if key not in found:
        raise ValueError(f"no rule is called {key!r}; try {', '.join(found)}")
    return found[key]
