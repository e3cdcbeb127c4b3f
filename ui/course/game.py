"""The last game: the smallest KL within a budget of bits, against the engine's own plan.

The player gives each kind of layer a number of bits. The engine has estimated what each layer alone costs (Fisher,
from a few backward passes), and chosen two plans for the same budget: one with the player's own sliders, a number of
bits a kind, which is the bar to beat, and one layer by layer. All are run on the whole model, on the same text, and
that is another one than the engine has chosen on: what suits one text by chance does not win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import plotly.graph_objects as go
import streamlit as st

from quantcore.lab.bench import EACH, LEARNED
from quantcore.lab.hardware import LOADED
from quantcore.lab.lab import Lab
from quantcore.measure.duel import Duel
from quantcore.measure.told_apart import told_apart
from quantcore.scheme.plan import Plan
from quantcore.text.reading import EVALUATE
from ui import frame
from ui.answers import answer
from ui.components.chart import chart
from ui.components.palette import BLUE, GREEN, INK, SLATE, SURFACE
from ui.course.stage import kinds_of, picture

BITS = (2, 3, 4, 8)
START = 3
MOST_KINDS = 12
ESTIMATED = True  # of the costs: to measure them takes a run a layer and scheme, minutes on two cores
JUDGED_ON = str(EVALUATE.at_most(2560))  # and chosen on EACH
PLAYED = 6  # plans that are kept on the screen
HEIGHT = 330


class Engines(NamedTuple):
    """The engine's plans: with the player's sliders, the bar to beat, and layer by layer."""

    bar: str
    free: str


def body(lab: Lab) -> None:
    st.title("The smallest loss within a budget: can you beat the engine?")
    with st.container(key="scene"), frame.problems():
        play(lab)


def play(lab: Lab) -> None:
    kinds, grain, schemes, budget = kinds_of(lab)[:MOST_KINDS], lab.grain, schemes_of(lab), budget_of(lab)
    shared = "one a row" if grain == "channel" else f"one for {grain.removeprefix('group')} weights"
    st.markdown(
        f"Give each kind of layer its bits, in all blocks at once; scales count, {shared}. The budget is "
        f"**{budget:g} bits a weight** on average: more than 3 bits for all, less than 4. Each plan is run on the "
        f"whole model, on {lab.tokens(JUDGED_ON).numel():,} tokens; the least KL wins. The engine has chosen its plan "
        "on another text."
    )
    left, right = st.columns([5, 8], gap="medium")
    with left:
        chosen = {}
        with st.grid(2, min_column_width=170, gap="small"):
            for kind in kinds:
                chosen[kind] = st.select_slider(kind, BITS, START, key=f"game_{kind}", format_func=bits_words)
        plan = plan_of(chosen, grain)
        spent = bits_of(lab, plan)
        over = spent > budget + 1e-6
        st.markdown(f"You spend **{spent:.3f}** of {budget:g} bits a weight{': too many.' if over else '.'}")
        st.button(
            "Measure my plan", on_click=played, args=(lab.id, plan), key="course_show", type="primary", disabled=over
        )
    with right:
        race(lab, schemes, budget)


def race(lab: Lab, schemes: tuple[str, ...], budget: float) -> None:
    """The engine's plan and the player's, as far as they are measured."""
    with st.container():
        title = "What each layer costs, estimated, for the engine's plan"
        found = answer(title, lab, Lab.sensitivity, *costs_asked(schemes)).whole
    if found is None:
        st.caption("Choose your bits meanwhile; the engine estimates what each layer costs.")
        return
    engine, mine = engines(lab, schemes, budget), plans_of(lab.id)
    plans = tuple(dict.fromkeys((engine.bar, engine.free, *(mine or [schemes[1]]))))
    with st.container():
        duel = answer("The plans, measured on the whole model", lab, Lab.duel, plans, JUDGED_ON, place="game").whole
    if duel is not None:
        said = verdict(duel, engine, mine)
        chart(standings(lab, duel, engine, mine), key="game", alt=said.replace("*", ""), height=HEIGHT)
        st.markdown(said)


def verdict(duel: Duel, engine: Engines, mine: list[str]) -> str:
    """What the last plan is worth beside the engine's."""
    bar, free = (duel.reports[plan].kl for plan in engine)
    beyond = f"Layer by layer, as no slider here can, it comes to {free:.4g}."
    if not mine:
        return f"The bar to beat: with your sliders the engine chose a plan that loses **{bar:.4g}** nats. {beyond}"
    last = mine[-1]
    if last == engine.bar:
        return f"You **found** the engine's own plan for these sliders, {bar:.4g} nats. {beyond}"
    apart = told_apart(duel)[last, engine.bar]
    if not apart.beyond:
        who, how = "A **tie** with the engine", "a difference that may be this text's chance"
    else:
        who = "You **beat** the engine" if apart.difference.value < 0 else "The engine keeps the lead"
        how = "more than the chance of this text"
    return (
        f"{who}: your plan {duel.reports[last].kl:.4g}, with the same sliders the engine's {bar:.4g} nats, {how}. "
        f"{beyond}"
    )


def standings(lab: Lab, duel: Duel, engine: Engines, mine: list[str]) -> go.Figure:
    """KL of each plan; beside it its bits a weight."""
    names = {plan: f"your plan {place + 1}" for place, plan in enumerate(mine)}
    names |= {engine.free: "engine, layer by layer"}
    names[engine.bar] = "engine, your sliders" if engine.bar not in mine else f"{names[engine.bar]}, the engine's"
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
    bits = dict(zip(schemes, BITS, strict=True))
    chosen = {layer.rpartition(".")[2]: bits[text] for layer, text in held.choice.items()}
    return Engines(plan_of(chosen, lab.grain), str(free.plan))


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
