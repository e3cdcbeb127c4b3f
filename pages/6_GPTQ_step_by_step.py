"""How does pushing the error to the right save the layer, and why does the order matter?"""

import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.studies.gptq_map import weights_spec
from quantcore.studies.gptq_order import METHODS, OrderStudy
from quantcore.studies.gptq_steps import TileSteps, tile_group
from quantcore.studies.gptq_toy import toy
from quantcore.text.reading import CALIBRATE, Reading
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.components.column_player import best_step, column_player
from ui.figures import drift
from ui.figures import gptq as figures
from ui.settled import Question, settled
from ui.sidebar import Choice
from ui.words import gptq as gptq_words

TITLE = "GPTQ step by step"
SECTION = "Learn"
GROUPS = (32, 64, 128)
ROW = "row"
DAMPS = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
TOKENS = (160, 640, 2560, 5120, 10240)
TOGETHER, AROUND = "columns that go together", "around the loudest column"
ORDERS = ("none", "weight", "group")
FLOAT, ROUNDED = "float", "rounded to nearest"
MAP_BITS, MAP_DAMPS = (2, 3, 4), (0.001, 0.01, 0.1)

LOOK_FOR = (
    "GPTQ rounds a weight column by column. Each rounding leaves an error, and the columns still to come move a little "
    "to make up for it; a column near the end has hardly anyone left to lean on. "
    "So watch what each push takes back, and then when the loud columns get their turn."
)
TRIES: frame.Tries = [
    ("2 bits, loud columns first", {"bits": 2, "order": "weight"}),
    ("too few tokens, little damping", {"tokens": 160, "damp": 0.0001}),
    ("the loudest column, first", {"tile": AROUND, "order": "weight"}),
    ("behind rounded layers: Qronos", {"before": ROUNDED}),
]


def tries(choice: Choice) -> frame.Tries:
    """On the loaded model: the layer whose outlier channel stands out most, where an order has most to save."""
    layer = choice.lab.default_layer()
    return [*TRIES, ("the layer with the loudest column, by row", {"layer": layer, "group": ROW, "order": "weight"})]


@st.fragment
def two_weights() -> None:
    """The toy: its sliders move nothing below it, so nothing else runs again."""
    with frame.problems():
        st.header("With two weights, all of it can be seen")
        with st.grid(4, min_column_width=190):
            correlation = controls.slide("Correlation of the inputs", -0.99, 0.99, 0.9, "r", 0.01)
            scale = controls.slide("Input 1 is larger, times", 0.25, 4.0, 2.0, "scale", 0.05)
            w1 = controls.slide("Weight 1, steps", -1.5, 1.5, 0.4, "w1", 0.05)
            w2 = controls.slide("Weight 2, steps", -1.5, 1.5, 0.45, "w2", 0.05)
        pair = toy(w1, w2, correlation, scale)
        words = gptq_words.toy(pair)
        with st.grid(2, min_column_width=430):
            chart(figures.toy(pair), key="toy", alt=words.replace("*", ""))
            with st.container():
                st.markdown(words)
                st.markdown(gptq_words.toy_steps(pair))
    controls.end()


def body(choice: Choice) -> None:
    lab, layer = choice.lab, choice.layer
    shape = lab.layers()[layer]
    sizes = [str(size) for size in GROUPS if shape[1] % size == 0 and size < shape[1]]
    grains = [*sizes, ROW]
    top = st.container()
    two_weights()
    st.header("Now a real layer")
    with frame.controls_in_sight(stacked=True), st.grid(4, min_column_width=180, gap="small"):
        bits = controls.slide("Bits per weight", 2, 8, 3, "bits")
        group = ROW
        if sizes:
            start = "64" if "64" in sizes else sizes[0]
            group = controls.steps("Group size, along the input", grains, start, "group")
        damp = controls.steps("Damping, share of mean diag(H)", DAMPS, 0.01, "damp")
        limit = controls.steps("Calibration tokens", TOKENS, CALIBRATE.windows * CALIBRATE.length, "tokens")
    learned = str(Reading.parse(choice.calibration).up_to(limit))
    granularity = "channel" if group == ROW else f"group{group}"

    st.header("One column after another")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        order = controls.pick("Order in the tile", ORDERS, "none", "order")
        together = controls.pick("The tile", [TOGETHER, AROUND], TOGETHER, "tile") == TOGETHER
    st.caption(gptq_words.ORDERS)
    actorder = "" if order == "none" else f"/actorder={order}"
    tile_scheme = f"w:int{bits}/group{tile_group(shape[1])},gptq{actorder}/damp={damp:.10g}"
    scheme = f"w:int{bits}/{granularity},gptq/damp={damp:.10g}"
    wanted = (layer, tile_scheme, together, scheme, choice.reading, learned)
    drawn = settled("gptq", f"GPTQ of {layer}, {bits} bits", lab, wanted, asked_of)
    if drawn is not None:
        tile_part(lab, lab.gptq_tile(*drawn[:3], drawn[5]), (drawn[0], drawn[1], str(drawn[2]), drawn[5]))
        study = layer_part(lab, drawn[0], *drawn[3:])
        with top:
            frame.headline(gptq_words.headline(study, drawn[0]))
        cost_part(lab, study, *cost_of(drawn[0], drawn[3]))
        frame.numbers(gptq_words.table(study), "gptq")
    st.header("Behind quantized layers: Qronos")
    if controls.pick("The layers before this one", [FLOAT, ROUNDED], FLOAT, "before") == ROUNDED:
        drift_part(lab, (layer, scheme, choice.reading, learned))
    else:
        st.markdown(gptq_words.BEHIND)
    st.header("Which setting loses least?")
    map_part(
        lab, (layer, MAP_BITS, tuple("channel" if one == ROW else f"group{one}" for one in grains), MAP_DAMPS, learned)
    )


def asked_of(layer: str, tile: str, together: bool, scheme: str, reading: str, learned: str) -> list[Question]:
    """What the tile, the whole layer and the cost of an order ask."""
    return [
        (Lab.gptq_tile, layer, tile, together, learned),
        (Lab.channels, layer, reading),
        (Lab.gptq_order, layer, scheme, reading, learned),
        (Lab.gptq_cost, *cost_of(layer, scheme)),
    ]


def cost_of(layer: str, scheme: str) -> tuple[str, str]:
    """Which product is timed: that of a layer with the scheme's groups."""
    return layer, f"w:int4/{weights_spec(scheme).granularity}"


@st.fragment
def tile_part(lab: Lab, steps: TileSteps, asked: tuple[str, ...]) -> None:
    """The tile, column by column; a step of it runs nothing else again. asked: layer, scheme, together, text."""
    words = gptq_words.tile(steps, lab.layers()[asked[0]], asked[2] == str(True))
    st.markdown(words)
    start = int(controls.start_numbers("step", [best_step(steps)], asked)[0])
    step = column_player(steps, key=f"steps{controls.resets()}", alt=words.replace("*", ""), start=start)
    controls.keep_numbers("step", [step])
    controls.end()


def layer_part(lab: Lab, layer: str, scheme: str, reading: str, learned: str) -> OrderStudy:
    """Every order on the whole layer; the study of it."""
    st.header("The whole layer, in every order")
    loud = lab.loud_channels(layer, reading)
    study = lab.gptq_order(layer, scheme, reading, learned)
    words = gptq_words.order(study)
    st.markdown(words)
    frame.metrics(
        {
            gptq_words.label(study, method): gptq_words.percent(study.course(method).loss / study.power)
            for method in METHODS
        }
    )
    chart(figures.courses(study), key="courses", alt=words.replace("*", ""))
    with st.grid(2, min_column_width=430):
        for ordered, key in ((False, "diagonal"), (True, "sorted")):
            places = [(study.courses[2 if ordered else 1].loud_steps[i], c) for i, c in enumerate(loud[:3])]
            named = ", ".join(f"channel {c} at place {place}" for place, c in places)
            chart(figures.diagonal(study, ordered), key=key, alt=f"the loudest outliers: {named or '0 channels'}")
    return study


def cost_part(lab: Lab, study: OrderStudy, layer: str, scheme: str) -> None:
    st.header("What an order costs at run time")
    costs = lab.gptq_cost(layer, scheme)
    words = gptq_words.cost(costs)
    st.markdown(words)
    with st.grid(2, min_column_width=430):
        chart(
            figures.groups(study),
            key="groups",
            alt=f"{int(study.courses[3].group.max()) + 1} groups, side by side or scattered over "
            f"{study.shape[1]} columns",
        )
        chart(figures.cost(costs), key="cost", alt=words.replace("*", ""))
    st.caption(gptq_words.cost_source(costs))
    st.button("Measure again", on_click=lab.forget, args=(Lab.gptq_cost, layer, scheme), key="again")


def drift_part(lab: Lab, wanted: tuple[str, str, str, str]) -> None:
    """What moved inputs cost the layer, the first correction, and the codes behind it."""
    drawn = settled("gptq drift", f"Qronos of {wanted[0]}", lab, wanted, lambda *asked: [(Lab.gptq_drift, *asked)])
    if drawn is None:
        return
    found = lab.gptq_drift(*drawn)
    words = gptq_words.drift(found)
    st.markdown(words)
    with st.grid(2, min_column_width=430):
        chart(drift.courses(found), key="drift_courses", alt=gptq_words.drift_courses(found))
        chart(drift.ends(found), key="drift", alt=words.replace("*", ""))


def map_part(lab: Lab, wanted: tuple[str, tuple[int, ...], tuple[str, ...], tuple[float, ...], str]) -> None:
    """What each order loses in every setting."""
    title = f"Every setting of {wanted[0]}"
    drawn = settled("gptq map", title, lab, wanted, lambda *asked: [(Lab.gptq_map, *asked)])
    if drawn is None:
        return
    found = lab.gptq_map(*drawn)
    words = gptq_words.order_map(found)
    st.markdown(words)
    chart(figures.order_map(found), key="map", alt=words.replace("*", ""))


frame.show(
    __file__,
    "How does pushing the error to the right save the layer, and why does the order matter?",
    LOOK_FOR,
    tries,
    body,
)
