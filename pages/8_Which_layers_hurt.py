"""Which layers hurt? Each layer quantized alone; then a budget, spent where it helps most, and measured."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from quantcore.lab.bench import LEARNED, PLANNED_ON
from quantcore.lab.lab import Lab
from quantcore.lab.start import SMALL_MODEL
from quantcore.measure.duel import short_label
from quantcore.measure.sensitivity import Sensitivity
from quantcore.model.layer_names import measured_together
from quantcore.scheme.scheme import Scheme
from quantcore.text.reading import EACH_LAYER, EVALUATE
from ui import frame, job_view
from ui import widgets as controls
from ui.answers import Answer, answer
from ui.components.chart import chart
from ui.figures import sensitivity as figures
from ui.sections.experts import experts_part
from ui.sections.plan import MILLISECONDS, draw_before, grains_on, plan_part, price_of
from ui.sidebar import Choice
from ui.words import sensitivity as words

TITLE = "Which layers hurt"
SECTION = "Lab"
BITS = (2, 3, 4, 8)
TOKENS = (640, 1280, 2560, 5120)
CHOSEN_ON = replace(EVALUATE, source=EACH_LAYER.source)
ALONE, ESTIMATED, ALL_BUT = "this layer alone", "alone, estimated", "everything but it"

LOOK_FOR = (
    "Each layer is quantized alone, all others stay float, and the KL of the next-token distributions says what that "
    "costs. Some layers cost many times what others do: move bits to those, and the model loses less at the same size."
)


def tries(choice: Choice) -> frame.Tries:
    """At this model's own prices. Of a large one no run a layer is offered: with 200 layers it takes half an hour."""
    lab = choice.lab
    return [
        ("3 bits for W3's price", {"bits": 3, "budget": price_of(lab, 3, lab.grain)}),
        ("2 bits: who breaks?", {"bits": 2, "budget": 2.5}),
        ("spend milliseconds on an L4", {"cost": MILLISECONDS, "plan_gpu": "L4"}),
        *([("everything but it", {"bits": 3, "way": ALL_BUT})] if usual_way(lab) == ALONE else []),
    ]


def usual_way(lab: Lab) -> str:
    """Of a large model the costs are estimated: to measure them takes a run a layer."""
    return ALONE if lab.contents().parameters <= SMALL_MODEL else ESTIMATED


def costs_of(lab: Lab, schemes: tuple[str, ...], way: str, reading: str) -> Answer[Sensitivity]:
    named = short_label(schemes[0]) if len(schemes) == 1 else f"{len(schemes)} schemes for the plan"
    title = f"{named}, layer by layer"
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
        heat_map, ranking = figures.ranked(tuple(costs.items()), title, what, tuple(layers))
        chart(heat_map, key="map", alt=alt)
        chart(ranking, key="ranking", alt=alt)
    frame.numbers(pd.DataFrame([{"layer": one, "scheme": scheme, what: kl} for one, kl in costs.items()]), "layers")


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
    draw = plan_part(lab, grain, grains, lambda schemes: costs_of(lab, schemes, ESTIMATED, PLANNED_ON))
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
    with st.container(), frame.problems():
        if found.whole is not None:
            draw()
        else:
            draw_before(lab)


frame.show(__file__, "Which layers hurt?", LOOK_FOR, tries, body)
