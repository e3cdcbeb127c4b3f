"""What does a frozen range cost? Ranges recorded on one text, put to the test on another, beside ranges found at run
time."""

import pandas as pd
import streamlit as st

from quantcore.models import TEXT_KINDS
from quantcore.studies.ranges import MOST_STEPS, STEP_CHOICE, STEP_TOKENS
from ui import cached, controls, frame
from ui.components.chart import chart
from ui.figures import ranges as figures

CALIBRATIONS = [*TEXT_KINDS, cached.MIX]
FORMATS = ["int8", "int4", "fp8_e4m3"]
OBSERVERS = ["minmax", "ema", "percentile", "mse"]
CALLS = [1, 8, 64, 512]
BUSY = 2.0  # median over fastest round

LOOK_FOR = (
    "A static range is recorded over some text and then frozen: too narrow, it clips; wide enough for the one largest "
    "token, it leaves the others a handful of codes. "
    "A dynamic range is taken from the tokens at hand; see what that saves, and what it takes in time."
)
TRIES = [
    ("a wide range in fp8", {"format": "fp8_e4m3", "freeze": "minmax"}),
    ("the giant token arrives alone", {"call": 1}),
    (
        "recorded on code, read as prose",
        {
            "model": "reference",
            "layer": "model.layers.2.self_attn.q_proj",
            "cal": "code",
            "text": "encyclopedia",
            "freeze": "minmax",
        },
    ),
]

with frame.page("What does a frozen range cost?", LOOK_FOR, TRIES, "pages/4_Static_or_dynamic.py") as choice:
    with st.grid(4, min_column_width=240):
        with st.container():
            kind = controls.select("Calibration text", CALIBRATIONS, "encyclopedia", "cal")
            steps = controls.slide(
                f"Calibration steps, {STEP_TOKENS} tokens each", STEP_CHOICE, MOST_STEPS, 32, "steps", STEP_CHOICE
            )
        with st.container():
            fmt = controls.pick("Format of the activations", FORMATS, "int8", "format")
            symmetric = fmt.startswith("fp") or controls.switch("symmetric (no zero point)", True, "symmetric")
        with st.container():
            percentile = controls.steps("Percentile", ["99", "99.9", "99.99", "99.999"], "99.99", "percentile")
            momentum = controls.steps("Momentum of the moving average", ["0.01", "0.1", "0.3", "1"], "0.1", "momentum")
        with st.container():
            freeze = controls.pick("Mark what this range clips", OBSERVERS, "percentile", "freeze")
            call = controls.steps("Tokens at once (dynamic per tensor)", CALLS, 64, "call")
    grid = f"a:{fmt}/tensor" + ("" if symmetric else "/asym")
    schemes = tuple(f"{grid}/static/{name}" for name in ("minmax", f"ema{momentum}", f"p{percentile}", "mse"))
    here = (choice.model_id, choice.device, choice.layer)
    study = cached.ranges(*here, choice.text_id, kind, steps, schemes, call)
    focus, trail = study.static[OBSERVERS.index(freeze)], study.trails[OBSERVERS.index(freeze)]

    others = [f"evaluation/{one}" for one in TEXT_KINDS]
    text_ids = tuple(others if choice.text_id in others else [choice.text_id, *others])

    frame.metrics(
        {
            f"Values clipped, {focus.name}": f"{focus.clipped * 1e6:,.0f} ppm",
            "Tokens that hold one": f"{focus.touched:.1%}",
            f"Median token, {focus.name}": f"{focus.token_sqnr_db:.1f} dB",
            "Median token, dynamic per token": f"{study.token.token_sqnr_db:.1f} dB",
        }
    )
    reach, giant = float(study.reach.median()), float(study.reach.max())
    in_steps = "" if fmt.startswith("fp") else f", which is {reach / focus.scale:.3g} steps"
    st.markdown(
        f"Recorded over {len(study.step_lo) * STEP_TOKENS:,} tokens, **{focus.name}** freezes **{focus.lo:.4g} to "
        f"{focus.hi:.4g}**, with a {'scale' if fmt.startswith('fp') else 'step'} of **{focus.scale:.3g}**. Half of the "
        f"test text's tokens never reach beyond **{reach:.3g}**{in_steps}; one reaches **{giant:.3g}**."
    )
    with st.grid(2, min_column_width=430):
        chart(
            figures.steps_picture(study),
            key="steps_picture",
            alt="after the last step: " + ", ".join(f"{row.name} {row.lo:.3g} to {row.hi:.3g}" for row in study.static),
        )
        chart(
            figures.tokens_picture(study, trail, cached.token_texts(choice.model_id, choice.device, choice.text_id)),
            key="tokens_picture",
            alt=f"{focus.name} clips a value of {focus.touched:.1%} of the tokens; half of all stay below {reach:.3g}, "
            f"one reaches {giant:.3g}",
        )
        clips = cached.clips(*here, text_ids, kind, steps, schemes)
        worst = max(clips, key=lambda clip: clip.touched)
        chart(
            figures.clip_map(clips, f"What ranges recorded on {kind} clip elsewhere"),
            key="clip_map",
            alt=f"most tokens are clipped by {worst.name} on {worst.text}: {worst.touched:.1%}",
        )
        chart(
            figures.error_picture(study),
            key="error_picture",
            alt="SQNR of the median token: "
            + ", ".join(f"{row.way} {row.name} {row.token_sqnr_db:.1f} dB" for row in study.rows),
        )
    st.subheader("What does dynamic cost in time?")
    measured = (*here, f"a:{fmt}/tensor/static")
    cost = cached.dynamic_cost(*measured)
    one, many = cost.rows[0], cost.rows[-1]
    words = (
        f"For **{many.tokens} tokens** the codes take **{many.static_ms:.2f} ms** with a frozen range, "
        f"**{many.tensor_extra_ms:+.2f} ms** with one found per tensor, **{many.token_extra_ms:+.2f} ms** per token; "
        f"the layer's float product takes {many.product_ms:.2f} ms. For **one token** it is {one.static_ms:.3f} ms, "
        f"{one.tensor_extra_ms:+.3f} ms, {one.token_extra_ms:+.3f} ms and {one.product_ms:.3f} ms."
    )
    with st.grid(2, min_column_width=430):
        chart(figures.cost_picture(cost), key="cost_picture", alt=words.replace("*", ""))
        with st.container():
            st.markdown(words)
            unrest = max(row.unrest for row in cost.rows)
            st.caption(
                f"Measured here: {cost.device}, weight {list(cost.shape)} {cost.dtype}, medians of {many.rounds} to "
                f"{one.rounds} rounds. The operations run one after another, as this engine does; "
                "a kernel that fuses them pays less."
            )
            if unrest > BUSY:
                st.caption(
                    f"The machine was busy: a median round took up to {unrest:.1f} times the fastest. Try again."
                )
            st.button("Measure again", on_click=cached.dynamic_cost.clear, args=measured, key="again")
    frame.numbers(pd.DataFrame(study.rows), "static_or_dynamic")
