"""A plan within a budget of bits, of bytes or of predicted milliseconds, beside one scheme for all, on another text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.lab.bench import LEARNED, PLANNED_ON
from quantcore.lab.lab import Lab
from quantcore.lab.layer_costs import uniform_bits
from quantcore.measure.duel import Duel, short_label
from quantcore.measure.planning import PlannedChoice, schemes_near
from quantcore.measure.probing import ProbedPlan
from quantcore.measure.sensitivity import Sensitivity
from quantcore.measure.told_apart import told_apart
from quantcore.scheme.fitting import GROUPS as FITTING
from quantcore.studies.gpus import GPUS
from quantcore.text.reading import EVALUATE
from ui import frame, job_view, settled
from ui import widgets as controls
from ui.answers import Answer, answer
from ui.components.chart import chart
from ui.figures import sensitivity as figures
from ui.sections.luck import luck_part
from ui.words import sensitivity as words

BITS, MEGABYTES, MILLISECONDS = "bits a weight", "megabytes", "milliseconds"
MEND = "Mend the plan in place: try every layer's other schemes in the plan itself"
DECIDING = (2560, 16384)  # tokens of the evaluation text
CLEAR = 0.002  # a p so small that a second look, at more text, is not needed
STEP = 0.005  # of the budget, bits a weight
LEAST, MOST = 2.125, 8.5  # bits a weight
DUEL = "plan"  # the place of its jobs
REST_S = 0.8  # a duel that began at once would slow the repaint down, and be given up with the next move of the slider
BEFORE = "_plan_before"  # in the session
LONG_PLAN, PLAN_PIXELS = 600, 160  # letters, from which on a plan's text scrolls, and its height then

Costs = Callable[[tuple[str, ...]], Answer[Sensitivity]]


@dataclass(frozen=True)
class Priced:
    """A plan, and the scheme for all that it is held against.

    uniform    what each scheme for all costs; price: the plan; budget: what it may; trail: plans at other budgets
    words      a price in words; axis, unit: of the picture"""

    chosen: PlannedChoice
    price: float
    uniform: Mapping[str, float]
    rival: str | None
    trail: Sequence[tuple[float, float]]
    words: Callable[[float], str]
    axis: str
    unit: str
    probed: ProbedPlan | None = None


class _Places(NamedTuple):
    """Where things stand that come and go, above the pictures: in places of their own, or the browser would build the
    pictures anew each time."""

    costs: DeltaGenerator
    mend: DeltaGenerator
    beside: DeltaGenerator
    words: DeltaGenerator
    luck: DeltaGenerator


@dataclass(frozen=True)
class _Shown:
    """A plan as it is drawn: its words, pictures, text, the lines of its duel, its numbers."""

    said: str
    more: str
    plan_map: go.Figure
    budgets: go.Figure
    text: str
    duel: str
    table: pd.DataFrame


def grains_on(lab: Lab) -> list[str]:
    """The granularities that every layer of the model takes, the usual one first."""
    widths = {width for _, width in lab.shapes().values()}
    groups = [f"group{size}" for size in FITTING if not any(width % size for width in widths)]
    return list(dict.fromkeys([lab.grain, *groups, "channel"]))


def _steps(grain: str, grains: Sequence[str]) -> list[str]:
    """The granularities that a plan is made of."""
    return [grain, *(one for one in ("channel", "group32") if one in grains)]


def usual_schemes(lab: Lab) -> Iterator[tuple[str, ...]]:
    """What the usual plan is made of; then what the plans of all budgets are made of."""
    steps = _steps(lab.grain, grains_on(lab))
    yield schemes_near(price_of(lab, 4, lab.grain), steps)
    near = (schemes_near(bits, steps) for bits in range(math.floor(LEAST), math.ceil(MOST)))
    yield tuple(dict.fromkeys(text for some in near for text in some))


def price_of(lab: Lab, bits: int, grain: str) -> float:
    """The least budget that pays for so many bits on all layers, scales counted."""
    return _up(lab.bits_of_all(f"w:int{bits}/{grain}"), STEP)


def plan_part(lab: Lab, grain: str, grains: Sequence[str], costs: Costs) -> Callable[[], None]:
    """The controls of the budget; what draws the plan, once the costs of single layers stand."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        spent = controls.pick("Spend", (BITS, MEGABYTES, MILLISECONDS), BITS, "cost")
        gpu, sequences = "", 1
        if spent == MILLISECONDS:
            gpu = controls.select("GPU", list(GPUS), "L4", "plan_gpu", width=190)
            sequences = controls.steps("Sequences at once", controls.SEQUENCES, 1, "plan_at_once", width=260)
    if spent == MILLISECONDS:
        return _time_budget(lab, grain, grains, costs, gpu, sequences)
    usual = price_of(lab, 4, grain)
    steps = _steps(grain, grains)
    weights = lab.planned_weights((f"w:int4/{grain}",))
    if spent == BITS:
        usual = controls.follow_default("budget", usual)
        budget = controls.slide("Bits per weight, scales counted", LEAST, MOST, usual, "budget", STEP, format="%.3f")
        return lambda: _draw_bits(lab, schemes_near(budget, steps), budget, costs, weights, spent)
    mb = weights / 8e6
    lo, hi, step = _ends(LEAST * mb, MOST * mb)
    usual = _default("megabytes", _up(usual * mb, step), lo, hi)
    label = "Megabytes of the layers' weights, scales counted"
    asked = controls.slide(label, lo, hi, usual, "megabytes", step, format="%.4g")
    bits = asked / mb
    return lambda: _draw_bits(lab, schemes_near(bits, steps), bits, costs, weights, spent)


def _ends(least: float, most: float) -> tuple[float, float, float]:
    """A slider's ends and its step: four digits of the larger end."""
    step = 10.0 ** (math.floor(math.log10(most)) - 3)
    return _up(least, step), _up(most, step), step


def _default(key: str, usual: float, lo: float, hi: float) -> float:
    """Where a slider begins whose ends move, with the model or with the GPU; what it stood on beyond them is let go."""
    if (stood := st.session_state.get(key)) is not None and not lo <= stood <= hi:
        st.session_state[key] = usual
    return float(controls.follow_default(key, usual))


def _up(value: float, step: float) -> float:
    """The next whole number of steps."""
    return round(math.ceil(round(value / step, 6)) * step, 9)


def _places() -> _Places:
    return _Places(*(st.container() for _ in _Places._fields))


def _draw_bits(lab: Lab, schemes: tuple[str, ...], budget: float, costs: Costs, weights: int, spent: str) -> None:
    places = _places()
    with places.costs:
        found = costs(schemes).whole
    if found is None:
        _draw_before(lab, places)
        return
    chosen, uniform = lab.plan(schemes, budget, PLANNED_ON, LEARNED, True), uniform_bits(found)
    paid = max(budget, min(uniform.values()))
    title = f"The plan of {paid:.3f} bits, layers tried in place"
    with places.mend:
        probed = answer(title, lab, Lab.probed_plan, schemes, paid, PLANNED_ON, start=False, button=MEND).whole
    if probed is not None:
        chosen = probed.chosen
    rival = max((one for one in uniform if uniform[one] <= budget + 1e-6), key=lambda one: uniform[one], default=None)
    trail = lab.plan_trail(schemes, PLANNED_ON, LEARNED, True)
    said = words.bits_words if spent == BITS else lambda bits: words.megabytes_words(bits, weights)
    priced = Priced(
        chosen, chosen.bits_per_weight, uniform, rival, trail, said, "bits per weight, scales counted", "bits", probed
    )
    _draw(lab, found, priced, places)


def timed_schemes(grain: str, grains: Sequence[str]) -> tuple[str, ...]:
    """What vLLM has kernels for, from the fewest bytes on."""
    fine = ["w:int4/group32"] if "group32" in grains and grain != "group32" else []
    return (f"w:int4/{grain}", *fine, "w:int8/channel", "W8A8", "FP8_DYNAMIC")


def _time_budget(
    lab: Lab, grain: str, grains: Sequence[str], costs: Costs, gpu: str, sequences: int
) -> Callable[[], None]:
    schemes = tuple(str(lab.plan_of(one)) for one in timed_schemes(grain, grains))
    uniform = lab.uniform_ms(schemes, gpu, sequences)
    lo, hi, step = _ends(min(uniform.values()), max(uniform.values()))
    halfway = (lo + uniform[str(lab.plan_of("w:int8/channel"))]) / 2  # of four bits and eight
    usual = _default("milliseconds", _up(halfway, step), lo, hi)
    label = "Milliseconds of all layers' products in a step"
    asked = controls.slide(label, lo, hi, usual, "milliseconds", step, format="%.4g")

    def draw() -> None:
        places = _places()
        with places.costs:
            found = costs(schemes).whole
        if found is None:
            _draw_before(lab, places)
            return
        timed = lab.plan_in_time(schemes, asked, gpu, sequences)
        within = [one for one in uniform if uniform[one] <= asked + 1e-9]
        rival = min(within, key=lambda one: found.whole[one], default=None)
        trail = lab.trail_in_time(schemes, gpu, sequences)
        priced = Priced(
            timed.chosen,
            timed.ms,
            uniform,
            rival,
            trail,
            lambda ms: words.time_words(ms, gpu, sequences),
            f"ms a step on {gpu}, predicted",
            "ms",
        )
        _draw(lab, found, priced, places)

    return draw


def _beside_rival(lab: Lab, text: str, rival: str | None) -> tuple[Duel | None, str]:
    """The plan beside the scheme for all, on as much of the other text as decides: more where a little does not; and
    the reading of it."""
    both, found = tuple(dict.fromkeys([text, *([] if rival is None else [rival])])), None
    read = ""
    for tokens in DECIDING:
        with st.container():
            title = f"The plan on another text, {tokens:,} tokens"
            asked = str(EVALUATE.at_most(tokens))
            view: dict[str, Any] = {"place": DUEL, "patience_s": 0, "passing": True, "rest_s": REST_S}
            more = answer(title, lab, Lab.duel, both, asked, **view).whole
        found, read = (found, read) if more is None else (more, asked)
        if more is None or rival is None or len(more.reports) < 2 or told_apart(more)[text, rival].p < CLEAR:
            break
    return found, read


def _draw(lab: Lab, found: Sensitivity, plan: Priced, places: _Places) -> None:
    """The plan, on another text beside the scheme for all that is within the budget too."""
    chosen, rival, uniform = plan.chosen, plan.rival, plan.uniform
    text, schemes = str(chosen.plan), found.schemes
    with places.beside:
        beside, read = _beside_rival(lab, text, rival)
    spreads = None
    if beside is not None and len(beside.reports) > 1:
        with places.luck:
            spreads = luck_part(lab, tuple(beside.reports), read, LEARNED)
    rival_took = None if rival is None else plan.words(uniform[rival]).replace("**", "")
    said = words.plan_words(chosen, beside, rival, plan.words(plan.price), rival_took, spreads, plan.probed)
    named = {
        text: ("this plan", plan.price),
        **({} if rival is None else {rival: (short_label(rival), uniform[rival])}),
    }
    known = {} if beside is None else beside.reports
    elsewhere = {named[one][0]: (named[one][1], report.kl) for one, report in known.items()}
    measured_at = {one: (uniform[one], found.whole[one]) for one in schemes}
    shown = _Shown(
        said=said[0],
        more=" ".join([*said[1:], words.bits_where(chosen.choice, found)]),
        plan_map=figures.plan_map(chosen.choice, found),
        budgets=figures.budgets(measured_at, plan.trail, elsewhere, "estimated", plan.axis, plan.unit),
        text=text,
        duel=words.duel_lines(text, rival, schemes),
        table=words.plan_table(found, chosen),
    )
    st.session_state[BEFORE] = _whose(lab), shown
    _show(shown, places)


def draw_before(lab: Lab) -> None:
    """The plan that was drawn last, where there is one, while what it stands under is found."""
    _draw_before(lab, _places())


def _draw_before(lab: Lab, places: _Places) -> None:
    """The plan that was drawn last, where there is one; words say that it is not the one that was asked for."""
    job_view.leave(DUEL)  # what is asked now need not wait for it
    whose, shown = st.session_state.get(BEFORE, (None, None))
    if shown is None or whose != _whose(lab):
        return
    places.words.caption(settled.BEFORE)
    _show(shown, places)


def _whose(lab: Lab) -> tuple[str, str]:
    return lab.id, lab.device


def _show(shown: _Shown, places: _Places) -> None:
    with places.words:
        frame.headline(shown.said, "plan")
        st.markdown(shown.more)
    alt = shown.said.replace("*", "")
    with st.grid(2, min_column_width=430):
        chart(shown.plan_map, key="plan_map", alt=alt)
        chart(shown.budgets, key="budgets", alt=f"{alt} {shown.more.replace('*', '')}")
    st.markdown("The plan as text, for the duel, the command line, a recipe:")
    long = len(shown.text) > LONG_PLAN
    st.code(shown.text, language=None, wrap_lines=True, height=PLAN_PIXELS if long else "content")
    frame.link("Open it in the duel", "pages/7_Scheme_duel.py", {"duel": shown.duel})
    frame.take_links({"the plan": shown.text})
    frame.numbers(shown.table, "layers")
