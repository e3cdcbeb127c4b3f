"""Which layers hurt? Each layer quantized alone; then a budget of bits, spent where it helps most, and measured."""

import pandas as pd
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.lab.whole import uniform_bits
from quantcore.measure.duel import short_label
from quantcore.measure.sensitivity import Sensitivity
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.text.reading import EVALUATE
from ui import frame, job_view
from ui import widgets as controls
from ui.answers import Answer, answer
from ui.components.chart import chart
from ui.figures import sensitivity as figures
from ui.scheme_builder import GROUPS, fitting_group
from ui.sections.experts import experts_part
from ui.sidebar import Choice
from ui.words import sensitivity as words

TITLE = "Which layers hurt"
SECTION = "Lab"
BITS = (2, 3, 4, 8)
TOKENS = (640, 1280, 2560, 5120)
ALONE, ALL_BUT = "this layer alone", "everything but it"

LOOK_FOR = (
    "Each layer is quantized alone, all others stay float, and the KL of the next-token distributions says what that "
    "costs. A few layers pay for most of it: give those more bits, and the model loses less at the same size."
)
TRIES: frame.Tries = [
    ("3 bits for W3's price", {"bits": 3, "budget": 3.125}),
    ("2 bits: who breaks?", {"bits": 2, "budget": 2.5}),
    ("everything but it", {"bits": 3, "way": ALL_BUT}),
]


def measured(lab: Lab, schemes: tuple[str, ...], all_but: bool, reading: str) -> Answer[Sensitivity]:
    title = f"{' and '.join(short_label(one) for one in schemes)}, layer by layer"
    place = "ranking" if len(schemes) == 1 else "plan's layers"
    return answer(title, lab, Lab.sensitivity, schemes, all_but, reading, place=place)


def ranking_part(found: Answer[Sensitivity], scheme: str, all_but: bool, layers: list[str]) -> None:
    """The map and the ranking; of a run under way, of the layers measured by then."""
    way, what = (ALL_BUT, "KL that remains") if all_but else (ALONE, "KL")
    if found.whole is not None:
        layers = list(found.whole.layers)
        by_layer = found.whole.all_but if all_but else found.whole.alone
        costs = {layer: by_layer[layer, scheme] for layer in layers}
        said = words.ranking_words(costs, found.whole.whole[scheme], all_but)
    else:
        costs, said = found.so_far, words.so_far_words(found.so_far, len(layers), all_but)
    st.markdown(said)
    with st.grid(2, min_column_width=430):
        title, alt = f"{Scheme.parse(scheme).label}: {way}", said.replace("*", "")
        chart(figures.heat_map(costs, title, what, layers), key="map", alt=alt)
        chart(figures.ranking(costs, "Ranked; a colour is a module", what), key="ranking", alt=alt)
    frame.numbers(pd.DataFrame([{"layer": one, "scheme": scheme, what: kl} for one, kl in costs.items()]), "layers")


def plan_part(lab: Lab, schemes: tuple[str, ...], budget: float, reading: str) -> None:
    """The plan within the budget, beside the largest scheme for all that is within it too."""
    with st.container():
        found = measured(lab, schemes, False, reading).whole
    if found is None:
        return
    chosen, uniform = lab.plan(schemes, budget, reading), uniform_bits(found)
    text = str(chosen.plan)
    rival = max((one for one in uniform if uniform[one] <= budget + 1e-6), key=lambda one: uniform[one], default=None)
    rivals = [] if rival is None else [rival]
    with st.container():
        both = tuple(dict.fromkeys([text, *rivals]))
        beside = answer("The plan, measured", lab, Lab.duel, both, reading, place="plan", patience_s=0).whole
    said = words.plan_words(chosen, beside, rival, None if rival is None else uniform[rival])
    st.markdown(" ".join(said))
    with st.grid(2, min_column_width=430):
        chart(figures.plan_map(chosen.choice, found), key="plan_map", alt=said[0].replace("*", ""))
        measured_at = {one: (uniform[one], found.whole[one]) for one in schemes}
        here = None if beside is None else (chosen.bits_per_weight, beside.reports[text].kl)
        budgets = figures.budgets(measured_at, lab.plan_trail(schemes, reading), here)
        chart(budgets, key="budgets", alt=" ".join(said).replace("*", ""))
    st.markdown("The plan as text, for the duel, the command line, a recipe:")
    st.code(text, language=None, wrap_lines=True)
    frame.link("Open it in the duel", "pages/7_Scheme_duel.py", {"duel": "\n".join([text, *rivals])})
    frame.take_links({"the plan": text})
    frame.numbers(words.plan_table(found, chosen), "layers")


def body(choice: Choice) -> None:
    lab = choice.lab
    with st.container(horizontal=True, vertical_alignment="bottom"):
        bits = controls.pick("Bits per weight", BITS, 3, "bits")
        group = controls.pick("Group", GROUPS, controls.follow_default("group", fitting_group(lab.layers())), "group")
        all_but = controls.pick("Quantized is", [ALONE, ALL_BUT], ALONE, "way") == ALL_BUT
        reading = str(EVALUATE.at_most(controls.pick("Tokens", TOKENS, TOKENS[0], "tokens")))
    scheme = f"w:int{bits}/group{group}"
    ranked = st.container()
    st.header("Spend a budget")
    budget = controls.slide("Bits per weight, scales counted", 2.125, 8.5, 4.125, "budget", 0.005, format="%.3f")
    with ranked:
        job_view.kept_notice()
        with st.container():
            found = measured(lab, (scheme,), all_but, reading)
        if found.whole is not None or found.so_far is not None:
            ranking_part(found, scheme, all_but, [one for one in lab.layers() if not Scheme.parse(scheme).skips(one)])
    experts_part(choice, scheme)
    if found.whole is not None:
        plan_part(lab, tuple(str(Plan.parse(f"w:int{one}/group{group}")) for one in BITS), budget, reading)


frame.show(__file__, "Which layers hurt?", LOOK_FOR, TRIES, body)
