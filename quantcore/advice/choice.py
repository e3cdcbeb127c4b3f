"""The choice: which candidate to ship on a GPU under a load, which is next, and why not each other one.

    found = advise(shape, GPUS["H100 SXM"], Load(8, 8192))
    found.chosen.candidate.text, found.runner_up, [(one.candidate.name, one.why) for one in found.verdicts]

A candidate falls out where vLLM has no kernel, where it does not fit, where its measured loss is beyond what is
tolerated. Of those that stay, by what matters:

    quality      the least loss                     latency, throughput     the fastest; of those within SAME of it the
    memory       the fewest bytes                                           least loss: the prediction tells no less

A loss is measured on this model, or it is `kin`'s (`advice.losses`). Of losses that were measured on the same windows
the line says whether they are told apart, as a duel does (`told_apart`); the order goes by the figures. Candidates are
compared by figures of one model: this one's where all of them were measured on it, else kin's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantcore.advice.candidates import NOT_HERE, Candidate, candidates
from quantcore.advice.load import Load, Memory, ServeTime, memory_of, serve_time, weight_bytes
from quantcore.advice.losses import TOLERANCES, Loss, Tolerance, kin
from quantcore.advice.pace import band, kind_of
from quantcore.advice.shape import ServedShape
from quantcore.export.kernels import AMD, CPU, Place, stays_16_bit, why_not_on
from quantcore.measure.frontier import unbeaten
from quantcore.measure.told_apart import BY_TEXT, Apart, Pair, share_words
from quantcore.numbers.digits import digits
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.gpus import Machine

MOST_GPUS = 4096
FLOAT = "float"
GOALS = ("quality", "latency", "throughput", "memory")
SAME = 1.1  # times; smaller differences in speed are inside the prediction's error
GB = 1e9
BFLOAT16_FROM = (8, 0)
UNTIMED = {
    AMD: "vLLM runs it here by a Triton kernel of 2026, whose speed nobody measured for this lab",
    CPU: "vLLM runs it here since 2026, but this lab has no product of packed codes on a CPU to predict its speed by",
}


@dataclass(frozen=True)
class Verdict:
    """A candidate on this GPU under this load; `why` it is not the one, None for the chosen. `time` is None where it
    cannot run; `kind` names the measured products that its time rests on; `apart`: its KL beside the chosen's,
    where both were measured on the same windows; `note`: what this GPU makes of the scheme, where that is less."""

    candidate: Candidate
    memory: Memory
    time: ServeTime | None
    step_band: tuple[float, float] | None
    kind: str | None
    loss: Loss | None
    closed: bool
    why: str | None = None
    frontier: bool = False
    apart: Apart | None = None
    note: str | None = None


@dataclass(frozen=True)
class Advice:
    """chosen: None where nothing fits. held: whether the tolerance was held to losses of this very model; without them
    nothing can be. verdicts: all candidates, in their order; elsewhere: schemes that are none."""

    model: str
    parameters: int
    gpu: str
    gpus: int
    load: Load
    goal: str
    tolerance: str
    held: bool
    chosen: Verdict | None
    runner_up: Verdict | None
    verdicts: tuple[Verdict, ...]
    elsewhere: Mapping[str, str]


def place_of(machine: Machine) -> Place:
    if machine.measured:
        return CPU
    return machine.capability or AMD


def advise(
    shape: ServedShape,
    machine: Machine,
    load: Load,
    gpus: int = 1,
    goal: str = "throughput",
    tolerance: str = "perplexity + 1%",
    measured: Mapping[str, Loss] | None = None,
    weights: Mapping[str, int] | None = None,
    aparts: Mapping[Pair, Apart] | None = None,
) -> Advice:
    """What to ship.

    measured   losses on this very model, by scheme text
    aparts     which of them are told apart, by pairs of scheme texts
    weights    bytes of the served model by scheme text, where they are known; else counted from the shapes
    Raises: ValueError for an unknown goal or tolerance, and for GPUs that are none or more than MOST_GPUS."""
    if goal not in GOALS or tolerance not in TOLERANCES or not 1 <= gpus <= MOST_GPUS:
        raise ValueError(
            f"goal {goal!r}, tolerance {tolerance!r}, {str(gpus)[:20]} GPUs: the goals are {', '.join(GOALS)}, "
            f"tolerances {'; '.join(TOLERANCES)}, and it takes 1 to {MOST_GPUS:,} GPUs; mend what is none of these"
        )
    limit, found = TOLERANCES[tolerance], []
    for one in candidates(shape):
        found.append(_verdict(one, shape, machine, load, gpus, limit, measured or {}, weights or {}))
    open_ones = [one for one in found if not one.closed]
    ranked = _ranked(open_ones, goal)
    chosen = ranked[0] if ranked else None
    front = {one.candidate.name for one in frontier(open_ones)}
    if chosen is not None and aparts:
        found = [replace(one, apart=aparts.get((one.candidate.text, chosen.candidate.text))) for one in found]
    told = tuple(replace(one, frontier=one.candidate.name in front, why=_why(one, chosen, goal)) for one in found)
    by_name = {one.candidate.name: one for one in told}
    names = [one.candidate.name for one in ranked]
    return Advice(
        shape.name,
        shape.parameters,
        machine.name,
        gpus,
        load,
        goal,
        tolerance,
        _held([one for one in found if one.time is not None and one.memory.left >= 0]),
        by_name[names[0]] if names else None,
        by_name[names[1]] if len(names) > 1 else None,
        told,
        NOT_HERE,
    )


def _verdict(
    one: Candidate,
    shape: ServedShape,
    machine: Machine,
    load: Load,
    gpus: int,
    limit: Tolerance,
    measured: Mapping[str, Loss],
    weights: Mapping[str, int],
) -> Verdict:
    plan, scheme = Plan.parse(one.text), Scheme.parse(one.text)
    count = weights[one.text] if one.text in weights else weight_bytes(shape, plan)
    memory = memory_of(shape, count, load, machine, gpus)
    loss = Loss(0.0, 0.0, 0.0, 0.0, 1.0, "nothing is quantized") if scheme.is_float else measured.get(one.text)
    loss = loss or kin().get(one.name)
    place, mixes = place_of(machine), any(matrix.used < 1 for matrix in shape.matrices)
    if (why := why_not_on(scheme, place) or (why_not_on(scheme, place, expert=True) if mixes else None)) is not None:
        return Verdict(one, memory, None, None, None, loss, True, why)
    if place in UNTIMED and not scheme.is_float and scheme.activations is None:
        return Verdict(one, memory, None, None, None, loss, True, UNTIMED[place])
    time = serve_time(shape, plan, load, machine, gpus)
    why = None
    if memory.left < 0:
        why = f"does not fit by {-memory.left / GB:.3g} GB"
    elif loss is not None and loss.own:
        why = loss.why_not(limit)
    bound, kind = band(time.step_ms, machine), kind_of(scheme, machine)
    return Verdict(one, memory, time, bound, kind, loss, why is not None, why, note=_note(scheme, place, mixes))


def _held(able: Sequence[Verdict]) -> bool:
    """Whether the losses of all that could run are this model's own."""
    return bool(able) and all(one.loss is not None and one.loss.own for one in able)


def _note(scheme: Scheme, place: Place, mixes: bool) -> str | None:
    """What a GPU makes of a scheme, where that is less than its name says."""
    if isinstance(place, str):
        return None
    if scheme.is_float and place < BFLOAT16_FROM:
        return "served as fp16: this GPU has no bfloat16, and a model made in it may overflow"
    if stays_16_bit(scheme, place) or (mixes and stays_16_bit(scheme, place, expert=True)):
        return "inputs stay 16-bit on this GPU: codes save memory, not arithmetic, and lose less than is said here"
    return None


def _by_one_model(several: Sequence[Verdict]) -> dict[str, Loss | None]:
    """By candidate's name losses that can be compared: this model's where all of them are, else kin's."""
    own = all(one.loss is not None and one.loss.own for one in several)

    def of_kin(one: Verdict) -> Loss | None:
        return one.loss if one.candidate.text == FLOAT else kin().get(one.candidate.name)

    return {one.candidate.name: one.loss if own else of_kin(one) for one in several}


def _kls(several: Sequence[Verdict]) -> dict[str, float]:
    return {name: math.inf if loss is None else loss.kl for name, loss in _by_one_model(several).items()}


def _speed(one: Verdict, goal: str) -> float:
    """The larger the better."""
    assert one.time is not None
    return one.time.tokens_s if goal == "throughput" else 1 / one.time.step_ms


def _ranked(open_ones: Sequence[Verdict], goal: str) -> list[Verdict]:
    """Best first: each time the best of those that are left."""
    left, ranked, kl = list(open_ones), list[Verdict](), _kls(open_ones)

    def lost(one: Verdict) -> float:
        return kl[one.candidate.name]

    while left:
        if goal == "quality":
            best = min(left, key=lambda one: (lost(one), one.memory.total))
        elif goal == "memory":
            best = min(left, key=lambda one: (one.memory.total, lost(one)))
        else:
            most = max(_speed(one, goal) for one in left)
            best = min(
                (one for one in left if _speed(one, goal) * SAME >= most), key=lambda one: (lost(one), one.memory.total)
            )
        left.remove(best)
        ranked.append(best)
    return ranked


def frontier(open_ones: Sequence[Verdict]) -> list[Verdict]:
    """Those that no other beats in memory, time and loss at once."""

    kl = _kls(open_ones)

    def figures(one: Verdict) -> tuple[float, float, float]:
        return one.memory.total, one.time.step_ms if one.time else float("inf"), kl[one.candidate.name]

    return unbeaten(open_ones, figures)


def _pace(speed: float) -> str:
    """How fast one is beside the advice, `speed` times as slow."""
    if speed > SAME:
        return f"{digits(speed, 2)} times as slow"
    share = f"{abs(1 / speed - 1):.0%}"
    way = "faster" if speed < 1 else "slower"
    return "as fast" if share == "0%" else f"{share} {way}, inside the prediction's error"


def _why(one: Verdict, chosen: Verdict | None, goal: str) -> str | None:
    """Why a candidate is not the chosen one, in a line."""
    if one.closed or chosen is None or one.candidate == chosen.candidate:
        return one.why
    assert one.time is not None
    assert chosen.time is not None
    said = []
    if goal in ("latency", "throughput"):
        said.append(_pace(_speed(chosen, goal) / _speed(one, goal)))
    if goal == "memory":
        said.append(f"takes {(one.memory.total - chosen.memory.total) / GB:.3g} GB more")
    losses = _by_one_model((one, chosen))
    mine, best = losses[one.candidate.name], losses[chosen.candidate.name]
    if mine and best:
        whose = "" if mine.own and best.own else " (recorded on the reference model)"
        sure = f" ({BY_TEXT})" if one.apart and one.apart.verdict == BY_TEXT else ""
        if one.apart and not one.apart.beyond:
            size = "" if one.apart.share is None else f" ({share_words(one.apart.share)})"
            said.append(f"its KL is not told from the chosen's{size}")
        elif best.kl == 0 < mine.kl:
            said.append(f"loses {digits(mine.kl, 2)} nats a token{whose}, the chosen none")
        elif mine.kl > best.kl > 0:
            times = f"{digits(mine.kl / best.kl, 2)} times "
            said.append(f"loses {'' if times == '1 times ' else times}as much KL{whose}{sure}")
        elif mine.kl < best.kl:
            said.append(f"would lose less{whose}{sure}")
    return ", ".join(said) + (f"; {one.note}" if one.note else "")
