"""Which layers hurt? Each layer quantized alone; then a budget of bits, spent where it helps most, and measured."""

import math
from dataclasses import replace

import pandas as pd
import streamlit as st

from quantcore.lab.bench import LEARNED, PLANNED_ON
from quantcore.lab.lab import Lab
from quantcore.lab.start import SMALL_MODEL
from quantcore.lab.whole import uniform_bits
from quantcore.measure.duel import Duel, short_label
from quantcore.measure.planning import schemes_near
from quantcore.measure.sensitivity import Sensitivity
from quantcore.measure.told_apart import told_apart
from quantcore.model.linears import measured_together
from quantcore.scheme.fitting import GROUPS as FITTING
from quantcore.scheme.scheme import Scheme
from quantcore.text.reading import EACH_LAYER, EVALUATE
from ui import frame, job_view
from ui import widgets as controls
from ui.answers import Answer, answer
from ui.components.chart import chart
from ui.figures import sensitivity as figures
from ui.sections.experts import experts_part
from ui.sections.luck import luck_part
from ui.sidebar import Choice
from ui.words import sensitivity as words

TITLE = "Which layers hurt"
SECTION = "Lab"
BITS = (2, 3, 4, 8)
TOKENS = (640, 1280, 2560, 5120)
CHOSEN_ON = replace(EVALUATE, source=EACH_LAYER.source)
MEND = "Mend the plan in place: try every layer's other schemes in the plan itself"
DECIDING = (2560, 16384)  # tokens of the evaluation text
CLEAR = 0.002  # a p so small that a second look, at more text, is not needed
ALONE, ESTIMATED, ALL_BUT = "this layer alone", "alone, estimated", "everything but it"

LOOK_FOR = (
    "Each layer is quantized alone, all others stay float, and the KL of the next-token distributions says what that "
    "costs. Some layers cost many times what others do: move bits to those, and the model loses less at the same size."
)
STEP = 0.005  # of the budget, bits a weight
LONG_PLAN, PLAN_PIXELS = 600, 160  # letters, from which on a plan's text scrolls, and its height then


def price(lab: Lab, bits: int, grain: str) -> float:
    """The least budget that pays for so many bits on all layers, scales counted."""
    whole = lab.bits_of_all(f"w:int{bits}/{grain}")
    return round(math.ceil(round(whole / STEP, 6)) * STEP, 3)


def tries(choice: Choice) -> frame.Tries:
    """At this model's own prices. Of a large one no run a layer is offered: with 200 layers it takes half an hour."""
    lab = choice.lab
    return [
        ("3 bits for W3's price", {"bits": 3, "budget": price(lab, 3, lab.grain)}),
        ("2 bits: who breaks?", {"bits": 2, "budget": 2.5}),
        *([("everything but it", {"bits": 3, "way": ALL_BUT})] if usual_way(lab) == ALONE else []),
    ]


def grains_on(lab: Lab) -> list[str]:
    """The granularities that every layer of the model takes, the usual one first."""
    widths = {width for _, width in lab.shapes().values()}
    groups = [f"group{size}" for size in FITTING if not any(width % size for width in widths)]
    return list(dict.fromkeys([lab.grain, *groups, "channel"]))


def usual_way(lab: Lab) -> str:
    """Of a large model the costs are estimated: to measure them takes a run a layer."""
    return ALONE if lab.contents().parameters <= SMALL_MODEL else ESTIMATED


def costs_of(lab: Lab, schemes: tuple[str, ...], way: str, reading: str) -> Answer[Sensitivity]:
    title = f"{' and '.join(short_label(one) for one in schemes)}, layer by layer"
    place = "ranking" if len(schemes) == 1 else "plan's layers"
    asked = schemes, way == ALL_BUT, reading, LEARNED, way == ESTIMATED
    return answer(title, lab, Lab.sensitivity, *asked, place=place)


def ranking_part(found: Answer[Sensitivity], scheme: str, way: str, layers: list[str]) -> None:
    """The map and the ranking; of a run under way, of the layers measured by then."""
    all_but, what = way == ALL_BUT, {ALL_BUT: "KL that remains", ESTIMATED: "KL, estimated"}.get(way, "KL")
    if found.whole is not None:
        layers = list(found.whole.layers)
        by_layer = found.whole.all_but if all_but else found.whole.alone
        costs = {layer: by_layer[layer, scheme] for layer in layers}
        said, more = words.ranking_words(costs, None if way == ESTIMATED else found.whole.whole[scheme], all_but)
    else:
        costs, said, more = found.so_far, words.so_far_words(found.so_far, len(layers), all_but), ""
    frame.headline(said)
    if more:
        st.markdown(more)
    with st.grid(2, min_column_width=430):
        title, alt = f"{Scheme.parse(scheme).label}: {way}", said.replace("*", "")
        chart(figures.heat_map(costs, title, what, layers), key="map", alt=alt)
        chart(figures.ranking(costs, "Ranked; a colour is a module", what), key="ranking", alt=alt)
    frame.numbers(pd.DataFrame([{"layer": one, "scheme": scheme, what: kl} for one, kl in costs.items()]), "layers")


def beside_rival(lab: Lab, text: str, rival: str | None) -> tuple[Duel | None, str]:
    """The plan beside the scheme for all, on as much of the other text as decides: more where a little does not; and
    the reading of it."""
    both, found = tuple(dict.fromkeys([text, *([] if rival is None else [rival])])), None
    read = ""
    for tokens in DECIDING:
        with st.container():
            title = f"The plan on another text, {tokens:,} tokens"
            asked = str(EVALUATE.at_most(tokens))
            more = answer(title, lab, Lab.duel, both, asked, place=f"plan{tokens}", patience_s=0).whole
        found, read = (found, read) if more is None else (more, asked)
        if more is None or rival is None or len(more.reports) < 2 or told_apart(more)[text, rival].p < CLEAR:
            break
    return found, read


def plan_part(lab: Lab, schemes: tuple[str, ...], budget: float, reading: str) -> None:
    """The plan within the budget, chosen on the text of `reading` by estimated costs, and mended in place where that
    was asked for; on another text, beside the largest scheme for all that is within the budget too."""
    with st.container():
        found = costs_of(lab, schemes, ESTIMATED, reading).whole
    if found is None:
        return
    chosen, uniform = lab.plan(schemes, budget, reading, LEARNED, True), uniform_bits(found)
    paid = max(budget, min(uniform.values()))
    title = f"The plan of {paid:.3f} bits, layers tried in place"
    probed = answer(title, lab, Lab.probed_plan, schemes, paid, reading, start=False, button=MEND).whole
    if probed is not None:
        chosen = probed.chosen
    text = str(chosen.plan)
    rival = max((one for one in uniform if uniform[one] <= budget + 1e-6), key=lambda one: uniform[one], default=None)
    rivals = [] if rival is None else [rival]
    beside, read = beside_rival(lab, text, rival)
    place, spreads = st.container(), None
    if beside is not None and len(beside.reports) > 1:
        spreads = luck_part(lab, tuple(beside.reports), read, LEARNED)
    said = words.plan_words(chosen, beside, rival, None if rival is None else uniform[rival], spreads, probed)
    with place:
        frame.headline(said[0], "plan")
        st.markdown(" ".join([*said[1:], words.bits_where(chosen.choice, found)]))
    with st.grid(2, min_column_width=430):
        chart(figures.plan_map(chosen.choice, found), key="plan_map", alt=said[0].replace("*", ""))
        measured_at = {one: (uniform[one], found.whole[one]) for one in schemes}
        bits = {
            text: ("this plan", chosen.bits_per_weight),
            **{one: (short_label(one), uniform[one]) for one in rivals},
        }
        known = {} if beside is None else beside.reports
        elsewhere = {bits[one][0]: (bits[one][1], report.kl) for one, report in known.items()}
        trail = lab.plan_trail(schemes, reading, LEARNED, True)
        budgets = figures.budgets(measured_at, trail, elsewhere, "estimated")
        chart(budgets, key="budgets", alt=" ".join(said).replace("*", ""))
    st.markdown("The plan as text, for the duel, the command line, a recipe:")
    st.code(text, language=None, wrap_lines=True, height=PLAN_PIXELS if len(text) > LONG_PLAN else "content")
    frame.link("Open it in the duel", "pages/7_Scheme_duel.py", {"duel": words.duel_lines(text, rival, schemes)})
    frame.take_links({"the plan": text})
    frame.numbers(words.plan_table(found, chosen), "layers")


def body(choice: Choice) -> None:
    lab = choice.lab
    with frame.controls_in_sight():
        bits = controls.pick("Bits per weight", BITS, 3, "bits")
        grains = grains_on(lab)
        grain = controls.pick("Scale for each", grains, controls.follow_default("grain", grains[0]), "grain")
        usual = controls.follow_default("way", usual_way(lab))
        way = controls.pick("Quantized is", [ALONE, ESTIMATED, ALL_BUT], usual, "way")
        reading = str(CHOSEN_ON.at_most(controls.pick("Tokens", TOKENS, TOKENS[0], "tokens")))
    scheme = f"w:int{bits}/{grain}"
    ranked = st.container()
    st.header("Spend a budget")
    usual_budget = controls.follow_default("budget", price(lab, 4, grain))
    budget = controls.slide("Bits per weight, scales counted", 2.125, 8.5, usual_budget, "budget", STEP, format="%.3f")
    with ranked:
        job_view.kept_notice()
        with st.container():
            found = costs_of(lab, (scheme,), way, reading)
        if found.whole is not None or found.so_far is not None:
            asked = [one for one in lab.layers() if not Scheme.parse(scheme).skips(one)]
            together = measured_together(asked)
            ranking_part(found, scheme, way, list(together))
            if len(together) < len(asked):
                st.caption(words.EXPERTS_TOGETHER)
        experts_part(choice, scheme)
    if found.whole is not None:
        steps = [grain, *(one for one in ("channel", "group32") if one in grains)]
        plan_part(lab, schemes_near(budget, steps), budget, PLANNED_ON)


frame.show(__file__, "Which layers hurt?", LOOK_FOR, tries, body)
