"""Questions of who must choose: this model, this GPU, this load; ship what, and why not the others.

`advise` answers from shapes, the table of GPUs and what is kept of this model's losses. `tried` measures first, by
successive halving: every candidate that is open on a short text, then the best FINALISTS on the whole one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from quantcore.advice.candidates import candidates
from quantcore.advice.catalog import shape_of
from quantcore.advice.choice import Advice
from quantcore.advice.choice import advise as choose
from quantcore.advice.load import Load
from quantcore.advice.losses import Loss
from quantcore.advice.pace import product_ms
from quantcore.advice.shape import ServedShape, served_shape
from quantcore.export.promise import promise
from quantcore.lab import layer_costs, whole
from quantcore.lab.bench import EACH, LEARNED, MEASURED, PLANNED_ON, Bench
from quantcore.lab.hardware import LOADED
from quantcore.lab.memo import remembered
from quantcore.lab.whole import SoFar
from quantcore.measure.duel import Duel
from quantcore.measure.kept_scores import FLOAT
from quantcore.measure.planning import PlannedChoice, plan_for_price, plan_trail, require_price
from quantcore.measure.statistics import window_interval
from quantcore.measure.told_apart import told_apart
from quantcore.model.layer_names import expert_of, served_as_one
from quantcore.model.memory import free_memory
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.scheme.scheme import Scheme
from quantcore.studies.gpus import GPUS, Machine, gpu_named, gpus_like
from quantcore.studies.hardware import measure_machine
from quantcore.text.reading import CALIBRATE

HERE = "this machine's CPU"


@dataclass(frozen=True)
class TimedPlan:
    """A plan, what its products take, ms, and what those of each scheme for all layers would; predicted on `gpu`."""

    chosen: PlannedChoice
    ms: float
    uniform_ms: Mapping[str, float]
    gpu: str


FINALISTS = 3
FEW = str(CALIBRATE.at_most(2560))  # what candidates learn from before they are finalists


GPU, LOAD, GOAL, TOLERANCE = "H100 SXM", str(Load()), "throughput", "perplexity + 1%"


def advise(
    lab: Bench,
    gpu: str = GPU,
    gpus: int = 1,
    load: str = LOAD,
    goal: str = GOAL,
    tolerance: str = TOLERANCE,
    model: str = LOADED,
    reading: str = MEASURED,
    calibration: str = LEARNED,
) -> Advice:
    """What to ship; `load` as in `Load.parse`, `model` the loaded one, an id of the catalogue, a folder, a config.json.

    Raises: ValueError for what is not known."""
    asked = (machine_named(lab, gpu), Load.parse(load), gpus, goal, tolerance)
    if model != LOADED:
        return choose(shape_of(model), *asked)
    shape = _loaded_shape(lab)
    kept = whole.kept_schemes(lab, _texts(shape), reading, calibration)
    found = whole.kept_duel(lab, kept, reading, calibration) if kept else None
    if found is None:
        return choose(shape, *asked, {}, candidate_bytes(lab))
    aparts = told_apart(found, whole.known_luck(lab, kept, reading, calibration))
    return choose(shape, *asked, losses_of(found), candidate_bytes(lab), aparts)


def tried(
    lab: Bench,
    gpu: str = GPU,
    gpus: int = 1,
    load: str = LOAD,
    goal: str = GOAL,
    tolerance: str = TOLERANCE,
    reading: str = MEASURED,
    calibration: str = LEARNED,
    luck: bool = False,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Advice:
    """The advice for the loaded model, measured: all open candidates on a short text, the best few on the whole one,
    with `luck` their rounding luck too. `so_far` hears the advice as it stands, as figures come."""
    tell = partial(part_of, progress, count=3 if luck else 2)
    asked = (machine_named(lab, gpu), Load.parse(load), gpus, goal, tolerance)
    shape = _loaded_shape(lab)
    weights = candidate_bytes(lab)
    first = choose(shape, *asked, {}, weights)
    able = [one.candidate.text for one in first.verdicts if one.time and one.memory.left >= 0]
    able = [text for text in able if text != FLOAT]
    if not able:
        return first

    def hear(known: Mapping[str, Loss]) -> SoFar | None:
        """What a duel under way adds to what is known."""
        if so_far is None:
            return None
        return lambda duel: duel.reports and so_far(choose(shape, *asked, {**known, **losses_of(duel)}, weights))

    rough = whole.duel(lab, able, EACH, FEW, tell(0, label="a short text"), hear({}))
    between = choose(shape, *asked, losses_of(rough), weights, told_apart(rough))
    if so_far:
        so_far(between)
    known = losses_of(rough)
    final = whole.duel(lab, finalists(between, able), reading, calibration, tell(1, label="the finalists"), hear(known))
    if luck:
        whole.luck(lab, tuple(final.reports), reading, calibration, tell(2, label="their rounding luck"))
    spreads = whole.known_luck(lab, tuple(final.reports), reading, calibration)
    aparts = told_apart(rough) | told_apart(final, spreads)
    return choose(shape, *asked, {**known, **losses_of(final)}, weights, aparts)


def plan_in_time(
    lab: Bench,
    schemes: Sequence[str],
    milliseconds: float,
    gpu: str = GPU,
    sequences: int = 1,
    reading: str = PLANNED_ON,
    calibration: str = LEARNED,
    progress: Progress | None = None,
) -> TimedPlan:
    """The plan whose layers cost least, by their estimated costs, while all their products together take at most so
    long in a step of so many sequences, as `advice.pace` predicts it; q, k and v are one product, and so on.

    Raises: as `require_time`."""
    machine = require_time(lab, schemes, milliseconds, gpu, sequences)
    found = layer_costs.sensitivity(lab, schemes, False, reading, calibration, True, progress)
    price = _product_price(lab, machine, sequences)
    units = served_as_one(found.layers).values()
    chosen = plan_for_price(found, price, milliseconds, f"ms on {machine.name}")
    uniform = {text: sum(price(unit, text) for unit in units) for text in found.schemes}
    return TimedPlan(chosen, sum(price(unit, chosen.choice[unit[0]]) for unit in units), uniform, machine.name)


def require_time(
    lab: Bench, schemes: Sequence[str], milliseconds: float, gpu: str = GPU, sequences: int = 1
) -> Machine:
    """The GPU on which a plan of these schemes may take so long.

    Raises: ValueError, before any layer is measured, for a time that no choice meets, a GPU that is not known, no
    sequence, and experts, whose time depends on which of them a router takes."""
    _require_no_experts(lab)
    machine, asked = machine_named(lab, gpu), [lab.scheme_of(one) for one in schemes]
    layers = [name for name in lab.shapes() if not any(one.skips(name) for one in asked)]
    price = _product_price(lab, machine, sequences)
    require_price(layers, [str(one) for one in asked], price, milliseconds, f"ms on {machine.name}")
    return machine


def _require_no_experts(lab: Bench) -> None:
    if any(expert_of(name) for name in lab.shapes()):
        raise ValueError("what experts take depends on how many of them a step touches; spend bits instead, --budget")


def _product_price(lab: Bench, machine: Machine, sequences: int) -> Callable[[Sequence[str], str], float]:
    """Layers that are served as one product, and their scheme -> milliseconds of it in a step.

    Raises: ValueError for no sequence."""
    if sequences < 1:
        raise ValueError(f"sequences={sequences} is no load; give at least 1")
    shapes = lab.shapes()

    @cache
    def product(out: int, width: int, text: str) -> float:
        return product_ms(Scheme.parse(text), (out, width), sequences, machine)

    def price(unit: Sequence[str], text: str) -> float:
        return product(sum(shapes[name][0] for name in unit), shapes[unit[0]][1], text)

    return price


@remembered(64)
def uniform_ms(lab: Bench, schemes: tuple[str, ...], gpu: str = GPU, sequences: int = 1) -> dict[str, float]:
    """What the products of all layers under one scheme take in a step of so many sequences, ms, predicted; of layers
    that one of the schemes skips nothing."""
    price = _product_price(lab, machine_named(lab, gpu), sequences)
    asked = {text: lab.scheme_of(text) for text in schemes}
    units = served_as_one(name for name in lab.shapes() if not any(one.skips(name) for one in asked.values())).values()
    return {text: sum(price(unit, str(one)) for unit in units) for text, one in asked.items()}


@remembered(16)
def trail_in_time(
    lab: Bench,
    schemes: tuple[str, ...],
    gpu: str = GPU,
    sequences: int = 1,
    reading: str = PLANNED_ON,
    calibration: str = LEARNED,
) -> tuple[tuple[float, float], ...]:
    """Milliseconds and predicted KL of plans from the quickest to the one that loses least. Raises: ValueError as
    `require_time`."""
    _require_no_experts(lab)
    price = _product_price(lab, machine_named(lab, gpu), sequences)
    return plan_trail(layer_costs.sensitivity(lab, schemes, False, reading, calibration, True), price)


def finalists(found: Advice, able: Sequence[str]) -> list[str]:
    """The chosen one and the runner-up, then the frontier, then by loss."""
    first = [one.candidate.text for one in (found.chosen, found.runner_up) if one is not None]
    rest = sorted(found.verdicts, key=lambda one: (not one.frontier, one.loss.kl if one.loss else math.inf))
    ordered = dict.fromkeys([*first, *(one.candidate.text for one in rest)])
    return [text for text in ordered if text in able][:FINALISTS]


@remembered(2)
def _loaded_shape(lab: Bench) -> ServedShape:
    return served_shape(lab.id, lab.model)


def _texts(shape: ServedShape) -> list[str]:
    return [one.text for one in candidates(shape) if one.text != FLOAT]


@remembered(1)
def candidate_bytes(lab: Bench) -> dict[str, int]:
    """Bytes of every candidate for the loaded model as it is served: what is no code in 16 bits, in a checkpoint of 32
    bits as well."""
    texts = [FLOAT, *_texts(_loaded_shape(lab))]
    return {text: promise(lab.model, text, torch.bfloat16).bytes for text in texts}


def losses_of(found: Duel) -> dict[str, Loss]:
    """By scheme text what a duel says is lost."""
    return {text: _loss(found, text) for text in found.reports}


def _loss(found: Duel, text: str) -> Loss:
    report, kl = found.reports[text], window_interval(found.scores[text].kl)
    change = report.log_perplexity_change
    most = change.hi if math.isfinite(change.hi) else change.value
    return Loss(
        kl.value, kl.lo, kl.hi, math.expm1(most), report.top1_agreement, f"{report.tokens:,} tokens of this model"
    )


@remembered(4)
def machine_named(lab: Bench, gpu: str) -> Machine:
    """A GPU of the table by its name or by what a driver or a person calls it; or this machine's CPU, measured now.

    Raises: ValueError for any other."""
    if gpu.lower() in ("cpu", HERE.lower()):
        found = free_memory(torch.device("cpu"))
        return replace(measure_machine("cpu"), memory_gb=None if found is None else found[1] / 1e9)
    if (several := re.match(r"\s*(\d{1,4})\s*[x×*]\s*(\D.*)", gpu, re.IGNORECASE)) is not None:
        count, one = several.groups()
        raise ValueError(
            f"{gpu[:60]!r} is a GPU and how many of it; name {one[:50]!r}, and {count} as how many (--gpus)"
        )
    known = GPUS.get(gpu) or gpu_named(gpu)
    if known is not None:
        return known
    alike = gpus_like(gpu)
    if len(alike) > 1:
        raise ValueError(f"{gpu[:60]!r} may be any of {', '.join(alike)}; name one")
    if not alike:
        raise ValueError(f"no GPU of the table is called {gpu[:60]!r}; it has {', '.join(GPUS)}, or cpu")
    return GPUS[alike[0]]
