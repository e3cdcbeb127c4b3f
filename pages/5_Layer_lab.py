"""What does this scheme do to one real layer? Everything adjustable, two schemes side by side."""

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.lab.lab import Lab
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import LayerStudy
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import layer as figures
from ui.scheme_builder import MENUS, copy_scheme, scheme_line, scheme_menus, swap_schemes
from ui.settled import settled
from ui.sidebar import Choice
from ui.words import layer as layer_words

TITLE = "Layer lab"
SECTION = "Lab"
NAMES = {"A": ":blue[**A**] - blue, solid, o", "B": ":orange[**B**] - vermilion, dashed, x"}
WORST_FIRST, IN_ORDER = "worst first", "in order"

LOOK_FOR = (
    "Two schemes meet the same layer on the same text. Look first at which part costs the output, the weights or the "
    "activations: the louder error decides, and mending the other changes little."
)
TRIES: frame.Tries = [
    (
        "range: static or dynamic",
        {"a": "w:int8/channel,a:int8/tensor/static", "b": "w:int8/channel,a:int8/token/dynamic"},
    ),
    (
        "8 bits: int or float",
        {"a": "w:int8/channel,a:int8/token/dynamic", "b": "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic"},
    ),
    (
        "smoothed: who gives, who takes",
        {"a": "w:int8/channel,a:int8/tensor/dynamic", "b": "w:int8/channel,a:int8/tensor/dynamic,smooth=0.7/all"},
    ),
    ("a better weight, a worse output?", {"a": "w:int4/channel", "b": "w:int4/channel/mse"}),
]


def draw_menus(menus: Sequence[tuple[DeltaGenerator, Scheme, str]], shape: tuple[int, int]) -> None:
    """Fill the editors' places; last of all, because two dozen menus cost the browser as much as all the pictures."""
    for place, scheme, key in menus:
        with place:
            scheme_menus(scheme, key, shape)


def study(side: str, choice: Choice, scheme: Scheme) -> tuple[LayerStudy, Scheme] | None:
    """The layer under a scheme; while that is found, under the scheme before; None where there is none."""
    wanted = (choice.layer, str(scheme), choice.reading, choice.calibration)
    title = f"{side}: {scheme.label} on {choice.layer}"
    drawn = settled(f"layer lab {side}", title, choice.lab, wanted, lambda *asked: [(Lab.layer_study, *asked)])
    if drawn is None:
        return None
    return choice.lab.layer_study(*drawn), choice.lab.scheme_of(drawn[1])


def body(choice: Choice) -> None:
    rows, cols = choice.lab.layers()[choice.layer]
    defaults = {
        "A": "w:int4/channel,a:int8/tensor/static",
        "B": f"w:int4/{choice.lab.grain},a:int8/token/dynamic",
    }
    schemes: dict[str, Scheme] = {}
    sides: dict[str, LayerStudy] = {}
    menus, waiting = [], list[bool]()
    with frame.controls_in_sight(stacked=True), st.grid(2, min_column_width=400):
        lines = [st.container(gap="xsmall") for _ in defaults]
    with st.grid(2, min_column_width=400):
        places = [st.container(gap="xsmall") for _ in defaults]  # what is on its way, and what cannot be
    with st.expander("Build A and B from menus"):
        st.caption(MENUS)
        with st.grid(2, min_column_width=400):
            boxes = [st.container(border=True, gap="xsmall", key=f"menus_{side.lower()}") for side in defaults]
    for (side, default), line, place, box in zip(defaults.items(), lines, places, boxes, strict=True):
        with place, frame.problems():
            with line:
                default = controls.follow_default(side.lower(), default)
                scheme = scheme_line(NAMES[side], default, side.lower(), choice.lab)
            menus.append((box, scheme, side.lower()))
            if (found := study(side, choice, scheme)) is not None:
                sides[side], schemes[side] = found
            waiting.append(found is None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button("Copy A to B", on_click=copy_scheme, args=("a", "b"), key="copy_ab")
        st.button("Swap A and B", on_click=swap_schemes, args=("a", "b"), key="swap_ab")
        order = controls.pick("Channels and tokens", [WORST_FIRST, IN_ORDER], WORST_FIRST, "order")
        frame.take_links({side: str(scheme) for side, scheme in schemes.items()})
    if not sides:
        draw_menus(menus, (rows, cols))
        if any(waiting):
            return
        raise ValueError("neither scheme can be used on this layer, as said above; mend that, or reset")

    texts = choice.lab.token_texts(choice.reading, choice.layer)
    words = layer_words.sentences(sides, schemes, choice.layer, texts)
    table = layer_words.table(sides)
    channels = layer_words.worst_channels(sides)
    said = layer_words.headline(sides)
    frame.headline(said)
    st.markdown("\n".join(f"- {sentence}" for sentence in words))
    with st.grid(2, min_column_width=420):
        chart(figures.shares(sides), key="shares", alt=" ".join([said, *words]).replace("*", ""))
        st.table(layer_words.written(table))
        chart(
            figures.weight_histogram(sides),
            key="weights",
            alt=f"{rows} x {cols} weights of {choice.layer} before and after quantization",
        )
        chart(
            figures.error_histogram(sides),
            key="errors",
            alt="largest weight error: " + ", ".join(f"{s} {v.weight.max_error:.3g}" for s, v in sides.items()),
        )
        chart(figures.channel_error(sides, order == WORST_FIRST), key="channels", alt=channels)
        chart(
            figures.token_error(sides, texts, order == WORST_FIRST),
            key="tokens",
            alt="error of the median token: "
            + ", ".join(f"{s} {100 * float(v.token_error.median()):.3g}%" for s, v in sides.items()),
        )
    st.caption(channels)
    draw_menus(menus, (rows, cols))
    frame.numbers(table, "layer_lab")


frame.show(__file__, "What does this scheme do to one real layer?", LOOK_FOR, TRIES, body)
