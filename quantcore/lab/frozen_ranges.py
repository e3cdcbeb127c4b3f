"""Questions about ranges: what a static one would freeze, what it clips of other texts, what a dynamic one costs."""

from __future__ import annotations

from quantcore.lab.bench import READ, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.specs import activations_of
from quantcore.studies.dynamic_cost import DynamicCost, measure_cost
from quantcore.studies.ranges import (
    CALL_TOKENS,
    MOST_STEPS,
    STEP_TOKENS,
    Clip,
    RangeStudy,
    Trail,
    Unfrozen,
    Watched,
    clipping,
    observe,
    range_study,
    unfrozen,
    watch,
)
from quantcore.text.reading import CALIBRATE, STUDY, Reading

WATCHED = str(Reading("calibration/encyclopedia", 1, STUDY.length).at_most(STEP_TOKENS * MOST_STEPS))
MIXED = str(CALIBRATE.at_most(CALIBRATE.kinds * STUDY.length))  # one window of every kind, read side by side
OBSERVERS = tuple(f"a:int8/tensor/static/{name}" for name in ("minmax", "ema0.1", "p99.99", "mse"))


@remembered(128)
def ranges(
    lab: Bench,
    layer: str,
    schemes: tuple[str, ...] = OBSERVERS,
    steps: int = MOST_STEPS,
    call: int = CALL_TOKENS,
    calibration: str = WATCHED,
    reading: str = READ,
) -> RangeStudy:
    """The ranges that static schemes freeze over the first steps of a calibration text, tried on another text, beside
    ranges taken at run time, for a tensor of `call` tokens or for each token."""
    return range_study(
        _watched(lab, layer, calibration),
        [_trail(lab, layer, calibration, steps, scheme) for scheme in schemes],
        lab.inputs(layer, reading),
        lab.weight(layer),
        _unfrozen(lab, layer, reading, schemes[0], call),
    )


@remembered(128)
def clips(
    lab: Bench,
    layer: str,
    schemes: tuple[str, ...] = OBSERVERS,
    steps: int = MOST_STEPS,
    calibration: str = WATCHED,
    readings: tuple[str, ...] = (READ,),
) -> tuple[Clip, ...]:
    """What the same frozen ranges clip on each of several texts, which go by their kind."""
    parsed = [Reading.parse(one) for one in readings]
    names = ["your own" if one.own else one.source.rpartition("/")[2] for one in parsed]
    texts = {name: lab.inputs(layer, reading) for name, reading in zip(names, readings, strict=True)}
    return clipping([_trail(lab, layer, calibration, steps, scheme) for scheme in schemes], texts)


@remembered(64, "Measuring the time ...")
def dynamic_cost(lab: Bench, layer: str, scheme: str) -> DynamicCost:
    """A measurement: kept until it is forgotten, so that one picture does not tremble from move to move."""
    return measure_cost(lab.linear(layer).weight.detach(), lab.inputs(layer, READ), activations_of(lab, scheme))


@remembered(4, "Recording ranges on the calibration text ...")
def _watched(lab: Bench, layer: str, calibration: str) -> Watched:
    """One layer's input on a calibration text, step by step; the kinds of text, where there are several, side by side,
    a step of each in turn."""
    kinds = Reading.parse(calibration).kinds
    tokens = lab.tokens(calibration)
    abreast = tokens.reshape(kinds, -1, tokens.shape[1]).transpose(0, 1).flatten(0, 1)
    return watch(lab.model, abreast, layer, abreast=kinds)


@remembered(256)
def _trail(lab: Bench, layer: str, calibration: str, steps: int, scheme: str) -> Trail:
    """What a static scheme's observer would freeze over the first steps of the calibration text."""
    return observe(_watched(lab, layer, calibration), activations_of(lab, scheme), steps)


@remembered(128)
def _unfrozen(lab: Bench, layer: str, reading: str, scheme: str, call: int) -> Unfrozen:
    return unfrozen(lab.inputs(layer, reading), lab.weight(layer), activations_of(lab, scheme), call)
