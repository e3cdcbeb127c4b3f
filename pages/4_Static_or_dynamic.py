"""What does a frozen range cost? Ranges recorded on one text, tried on another, beside ranges found at run time."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from quantcore.lab.bench import LEARNED
from quantcore.lab.frozen_ranges import MIXED
from quantcore.lab.lab import Lab
from quantcore.studies.ranges import MOST_STEPS, STEP_CHOICE, STEP_TOKENS
from quantcore.text.reading import STUDY, Reading
from quantcore.text.windows import TEXT_KINDS
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import ranges as figures
from ui.settled import Question, settled
from ui.sidebar import SIDEBAR, Choice
from ui.words import range as range_words

TITLE = "Static or dynamic"
SECTION = "Learn"
MIX = "mix"  # a calibration text of every kind
CALIBRATIONS = [*TEXT_KINDS, MIX]
FORMATS = ["int8", "int4", "fp8_e4m3"]
OBSERVERS = ["minmax", "ema", "percentile", "mse"]
OBSERVERS_HELP = "ema: the moving average of each step's least and greatest value; mse: the least squared error"
CALLS = [1, 8, 64, 512]

LOOK_FOR = (
    "A static range is recorded over some text and then frozen: too narrow, it clips; wide enough for the one largest "
    "token, it leaves the others a handful of codes. "
    "A dynamic range is taken from the tokens at hand; see what that saves, and what it takes in time."
)
TRIES: frame.Tries = [
    ("a wide range in fp8", {"format": "fp8_e4m3", "freeze": "minmax"}),
    ("the giant token arrives alone", {"call": 1}),
]


def calibration_of(kind: str, choice: Choice) -> str:
    """As many whole windows as the page steps through, of one kind of text, of all, or of the sidebar's."""
    if kind == MIX:
        return MIXED
    text = Reading.parse(choice.calibration if kind == SIDEBAR else f"calibration/{kind}")
    return str(text.at_most(STEP_TOKENS * MOST_STEPS))


def read_beside(reading: str) -> tuple[str, ...]:
    """The reading, and those of all kinds of text."""
    others = [str(replace(STUDY, source=f"evaluation/{one}")) for one in TEXT_KINDS]
    return tuple(others if reading in others else [reading, *others])


def asked_of(
    layer: str, schemes: tuple[str, ...], steps: int, call: int, calibration: str, reading: str
) -> list[Question]:
    """What the pictures ask."""
    return [
        (Lab.ranges, layer, schemes, steps, call, calibration, reading),
        (Lab.clips, layer, schemes, steps, calibration, read_beside(reading)),
        (Lab.dynamic_cost, *timed(layer, schemes)),
    ]


def timed(layer: str, schemes: tuple[str, ...]) -> tuple[str, str]:
    """Of which inputs the cost of a dynamic range is timed: the layer's, in the format of the schemes."""
    return layer, f"{schemes[0].partition('/')[0]}/tensor/static"


def body(choice: Choice) -> None:
    with frame.controls_in_sight():
        own = [SIDEBAR] * (choice.calibration != LEARNED)
        kind = controls.select("Calibration text", [*CALIBRATIONS, *own], "encyclopedia", "cal", width=180)
        fmt = controls.pick("Format of the activations", FORMATS, "int8", "format")
        freeze = controls.pick("Mark what this range clips", OBSERVERS, "percentile", "freeze", help=OBSERVERS_HELP)
    with st.expander("Finer controls"), st.grid(3, min_column_width=240):
        steps = controls.slide(
            f"Calibration steps, {STEP_TOKENS} tokens each", STEP_CHOICE, MOST_STEPS, 32, "steps", STEP_CHOICE
        )
        percentile = controls.steps("Percentile", ["99", "99.9", "99.99", "99.999"], "99.99", "percentile")
        momentum = controls.steps("Momentum of the moving average", ["0.01", "0.1", "0.3", "1"], "0.1", "momentum")
        call = controls.steps("Tokens at once (dynamic per tensor)", CALLS, 64, "call")
        symmetric = fmt.startswith("fp") or controls.switch("symmetric (no zero point)", True, "symmetric")
    grid = f"a:{fmt}/tensor" + ("" if symmetric else "/asym")
    schemes = tuple(f"{grid}/static/{name}" for name in ("minmax", f"ema{momentum}", f"p{percentile}", "mse"))
    lab, layer, calibration = choice.lab, choice.layer, calibration_of(kind, choice)
    wanted = (layer, schemes, steps, call, calibration, choice.reading)
    drawn = settled("ranges", f"Ranges of {layer}", lab, wanted, asked_of)
    if drawn is None:
        return
    layer, schemes, steps, call, calibration, reading = drawn
    study = lab.ranges(*drawn)
    focus, trail = study.static[OBSERVERS.index(freeze)], study.trails[OBSERVERS.index(freeze)]

    frame.headline(range_words.headline(study))
    frame.metrics(
        {
            f"Values clipped, {focus.name}": f"{focus.clipped * 1e6:,.0f} ppm",
            "Tokens with a clipped value": f"{focus.touched:.1%}",
            f"Median token, {focus.name}": f"{focus.token_sqnr_db:z.1f} dB",
            "Median token, dynamic per token": f"{study.others.token.token_sqnr_db:z.1f} dB",
        }
    )
    st.caption("Median token: SQNR of its output.")
    st.markdown(range_words.finding(study, focus, trail))
    with st.grid(2, min_column_width=430):
        chart(figures.steps_picture(study), key="steps_picture", alt=range_words.frozen(study))
        texts = lab.token_texts(reading, layer)
        chart(figures.tokens_picture(study, trail, texts), key="tokens_picture", alt=range_words.touched(study, focus))
        clips = lab.clips(layer, schemes, steps, calibration, read_beside(reading))
        title = f"What ranges recorded on {kind} clip, text by text"
        chart(figures.clip_map(clips, title), key="clip_map", alt=range_words.worst_clip(clips))
        chart(figures.error_picture(study), key="error_picture", alt=range_words.errors(study))

    st.header("What does dynamic cost in time?")
    asked = timed(layer, schemes)
    cost = lab.dynamic_cost(*asked)
    with st.grid(2, min_column_width=430):
        chart(figures.cost_picture(cost), key="cost_picture", alt=range_words.cost(cost).replace("*", ""))
        with st.container():
            st.markdown(range_words.cost(cost))
            st.caption(range_words.cost_source(cost))
            st.button("Measure again", on_click=lab.forget, args=(Lab.dynamic_cost, *asked), key="again")
    frame.numbers(pd.DataFrame(study.rows), "static_or_dynamic")


frame.show(__file__, "What does a frozen range cost?", LOOK_FOR, TRIES, body)
