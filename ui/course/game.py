"""The last game: the smallest KL within a budget of bits, against a rule of thumb and against the engine.

The player gives each kind of layer a number of bits. Three plans for the same budget are held against that: a quick
one, by how far rounding moves the weights, which who looks at layers can beat; the engine's, by what each layer alone
costs (Fisher, from a few backward passes), with the player's own sliders, which is there to be reached; and the
engine's layer by layer. All are run on the whole model, on the same text, and that is another one than the engine has
chosen on: what suits one text by chance does not win.

?scene=15&guess=3,4,8,3,4,3,3      the sliders, in the model's order      &shown=true     and that plan measured
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import plotly.graph_objects as go
import streamlit as st

from quantcore.lab.bench import EACH, LEARNED
from quantcore.lab.hardware import LOADED
from quantcore.lab.lab import Lab
from quantcore.measure.duel import Duel
from quantcore.measure.told_apart import Apart, apart_of
from quantcore.scheme.plan import Plan
from quantcore.text.reading import EVALUATE
from ui import frame
from ui.answers import answer
from ui.components.chart import chart
from ui.components.palette import BLUE, GREEN, INK, SLATE, SURFACE
from ui.course.stage import kinds_of, picture
from ui.settled import Question, settled

BITS = (2, 3, 4, 8)
START = 3
MOST_KINDS = 12
ESTIMATED = True  # of the costs: to measure them takes a run a layer and scheme, minutes on two cores
JUDGED_ON = str(EVALUATE.at_most(2560))  # and chosen on EACH
PLAYED = 6  # plans that are kept on the screen
HEIGHT = 330


class Engines(NamedTuple):
    """With the player's sliders the quick plan, to be beaten, and the engine's, to be reached; and the engine's layer
    by layer."""

    quick: str
    bar: str
    free: str


def body(lab: Lab) -> None:
    st.title("The smallest loss within a budget: who spends the bits best?")
    with st.container(key="scene"), frame.problems():
        play(lab)


def play(lab: Lab) -> None:
    kinds, grain, schemes, budget = kinds_of(lab)[:MOST_KINDS], lab.grain, schemes_of(lab), budget_of(lab)
    shared = "one a row" if grain == "channel" else f"one for {grain.removeprefix('group')} weights"
    st.markdown(
        f"Give each kind of layer its bits, in all blocks at once; scales count, {shared}. The budget is "
        f"**{budget:g} bits a weight** on average: more than 3 bits for all, less than 4. Each plan is run on the "
        f"whole model, on {lab.tokens(JUDGED_ON).numel():,} tokens; the least KL wins. Beat the **quick plan**, which "
        "looks at weights alone; reach the **engine's**, which has tried what each layer does to another text."
    )
    left, right = st.columns([5, 8], gap="medium")
    with left:
        opened = from_link(kinds)
        chosen = {}
        with st.grid(2, min_column_width=140, gap="small"):
            for kind in kinds:
                chosen[kind] = st.select_slider(kind, BITS, key=f"game_{kind}", format_func=bits_words)
        plan = plan_of(chosen, grain)
        spent = bits_of(lab, plan)
        over = spent > budget + 1e-6
        if opened and not over:
            played(lab.id, plan)
        to_link(chosen, plan in plans_of(lab.id))
        st.markdown(f"You spend **{spent:.3f}** of {budget:g} bits a weight{': too many.' if over else '.'}")
        st.button(
            "Measure my plan", on_click=played, args=(lab.id, plan), key="course_show", type="primary", disabled=over
        )
    with right:
        race(lab, schemes, budget)


def from_link(kinds: list[str]) -> bool:
    """Set the sliders as the link says when they are drawn first; whether it wants that plan measured."""
    if f"game_{kinds[0]}" in st.session_state:
        return False
    text = st.query_params.get("guess", "")
    parts = text.split(",")
    fits = len(parts) == len(kinds) and all(part in map(str, BITS) for part in parts)
    if text and not fits:
        bits = ", ".join(map(str, BITS))
        st.warning(f"The link's guess is no plan of this game: it takes {len(kinds)} numbers out of {bits}.")
    for place, kind in enumerate(kinds):
        st.session_state[f"game_{kind}"] = int(parts[place]) if fits else START
    return fits and "shown" in st.query_params


def to_link(chosen: dict[str, int], measured: bool) -> None:
    """The sliders, once they have been moved; and whether that plan has been measured."""
    said = {"guess": ",".join(map(str, chosen.values())), "shown": "true"}
    for name, there in (("guess", set(chosen.values()) != {START}), ("shown", measured)):
        if not there:
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != said[name]:
            st.query_params[name] = said[name]


def race(lab: Lab, schemes: tuple[str, ...], budget: float) -> None:
    """The engine's plan and the player's, as far as they are measured."""
    with st.container():
        title = "What each layer costs, estimated, for the engine's plan"
        found = answer(title, lab, Lab.sensitivity, *costs_asked(schemes)).whole
    if found is None:
        st.caption("Choose your bits meanwhile; the engine estimates what each layer costs.")
        return
    with st.container():
        if settled("quick plan", "The quick plan", lab, quick_asked(schemes, budget), quickly) is None:
            return
    engine, mine = engines(lab, schemes, budget), plans_of(lab.id)
    plans = tuple(dict.fromkeys((*engine, *(mine or [schemes[1]]))))
    with st.container():
        duel = answer("The plans, measured on the whole model", lab, Lab.duel, plans, JUDGED_ON, place="game").whole
    if duel is not None:
        said = verdict(duel, engine, mine)
        chart(standings(lab, duel, engine, mine), key="game", alt=said.replace("*", ""), height=HEIGHT, grow=0.8)
        st.markdown(said)
        frame.link("Try it yourself, layer by layer: Which layers hurt", "pages/8_Which_layers_hurt.py", {})


def verdict(duel: Duel, engine: Engines, mine: list[str]) -> str:
    """What the last plan is worth beside the others."""
    quick, bar, free = (duel.reports[plan].kl for plan in engine)
    beyond = f"Layer by layer, as no slider here can, it comes to {free:.4g}."
    if not mine and engine.quick == engine.bar:
        return f"With your sliders the quick plan and the engine's are the same here: **{bar:.4g}** nats. {beyond}"
    if not mine:
        return (
            f"With your sliders the quick plan loses **{quick:.4g}** nats, which you can beat; the engine's "
            f"**{bar:.4g}**, which is hard to reach. {beyond}"
        )
    last = mine[-1]
    if last == engine.bar:
        return f"You **found** the engine's own plan for these sliders, {bar:.4g} nats. {beyond}"
    aparts = apart_of(duel, [(last, plan) for plan in dict.fromkeys(engine[:2]) if plan != last])
    quickly = (
        "is the quick plan"
        if last == engine.quick
        else f"{standing(aparts[last, engine.quick])} the quick plan's {quick:.4g}"
    )
    chance = "" if all(one.beyond for one in aparts.values()) else " A tie: the difference may be this text's chance."
    return (
        f"Your plan, {duel.reports[last].kl:.4g} nats, {quickly}; it {standing(aparts[last, engine.bar])} the "
        f"engine's {bar:.4g}.{chance} {beyond}"
    )


def standing(apart: Apart) -> str:
    """Of the first plan beside the second, in words."""
    return "**ties** with" if not apart.beyond else "**beats**" if apart.difference.value < 0 else "**loses** to"


def standings(lab: Lab, duel: Duel, engine: Engines, mine: list[str]) -> go.Figure:
    """KL of each plan; beside it its bits a weight."""
    names = {plan: f"your plan {place + 1}" for place, plan in enumerate(mine)}
    names |= {engine.free: "engine, layer by layer"}
    for plan, name in ((engine.quick, "the quick plan"), (engine.bar, "engine, your sliders")):
        names[plan] = f"{names[plan]} = {name}" if plan in mine else name
    rows = [(names.get(plan, "3 bits for all"), duel.reports[plan].kl, bits_of(lab, plan)) for plan in duel.reports]
    rows.sort(key=lambda row: -row[1])
    fig = picture("KL, nats", "", HEIGHT, showlegend=False, bargap=0.3)
    colours = [
        BLUE if name.startswith("your") else GREEN if name.startswith("engine") else SLATE for name, _, _ in rows
    ]
    fig.add_trace(
        go.Bar(
            x=[kl for _, kl, _ in rows],
            y=[name for name, _, _ in rows],
            orientation="h",
            marker={"color": colours},
            text=[f"{kl:.4g} nats, {bits:.3f} bits" for _, kl, bits in rows],
            textposition="auto",
            insidetextfont={"color": SURFACE},
            outsidetextfont={"color": INK},
        )
    )
    return fig


def questions(lab: Lab) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """What the game asks before anybody has played: for who measures it ahead."""
    schemes = schemes_of(lab)
    yield Lab.sensitivity, costs_asked(schemes)
    if lab.kept_sensitivity(*costs_asked(schemes)) is not None:
        plans = dict.fromkeys((*engines(lab, schemes, budget_of(lab)), schemes[1]))
        yield Lab.duel, (tuple(plans), JUDGED_ON, LEARNED)


def schemes_of(lab: Lab) -> tuple[str, ...]:
    """What a layer may get."""
    return tuple(str(Plan.parse(f"w:int{bits}/{lab.grain}")) for bits in BITS)


def budget_of(lab: Lab) -> float:
    """Halfway between 3 and 4 bits for all, scales counted."""
    _, three, four, _ = (bits_of(lab, scheme) for scheme in schemes_of(lab))
    return round((three + four) / 2, 3)


def costs_asked(schemes: tuple[str, ...]) -> tuple[Any, ...]:
    return schemes, False, EACH, LEARNED, ESTIMATED


def engines(lab: Lab, schemes: tuple[str, ...], budget: float) -> Engines:
    """The engine's plans, from the costs that are known by then."""
    free, held = (lab.plan(schemes, budget, EACH, LEARNED, ESTIMATED, by_kind) for by_kind in (False, True))
    quick = lab.quick_plan(*quick_asked(schemes, budget))
    by_sliders = [_by_kind(choice, schemes, lab.grain) for choice in (quick, held.choice)]
    return Engines(by_sliders[0], by_sliders[1], str(free.plan))


def _by_kind(choice: Mapping[str, str], schemes: tuple[str, ...], grain: str) -> str:
    """The plan of a choice that has one scheme for each kind of layer."""
    bits = dict(zip(schemes, BITS, strict=True))
    return plan_of({layer.rpartition(".")[2]: bits[text] for layer, text in choice.items()}, grain)


def quick_asked(schemes: tuple[str, ...], budget: float) -> tuple[Any, ...]:
    return schemes, budget, EACH, LEARNED, True


def quickly(*asked: Any) -> list[Question]:
    return [(Lab.quick_plan, *asked)]


def plan_of(chosen: dict[str, int], grain: str) -> str:
    """3 bits, and an exception for each kind that has another number."""
    parts = [f"@{kind}=w:int{bits}/{grain}" for kind, bits in chosen.items() if bits != START]
    return str(Plan.parse(f"w:int{START}/{grain}{''.join(parts)}"))


def bits_of(lab: Lab, plan: str) -> float:
    """Bits a weight, scales counted; the engine counts."""
    return float(lab.footprint(LOADED, plan).bits_per_weight or 0.0)


def bits_words(bits: int) -> str:
    return f"{bits} bits"


def plans_of(model: str) -> list[str]:
    """What this visitor has played on the model."""
    found: list[str] = st.session_state.setdefault(f"_played_{model}", [])
    return found


def played(model: str, plan: str) -> None:
    plans = plans_of(model)
    if plan in plans:
        plans.remove(plan)
    plans.append(plan)
    del plans[:-PLAYED]
