"""Who shares a scale? One real weight under every granularity."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.numbers.granularity import largest_divisor
from quantcore.numbers.scales import FLOAT, SCALES
from quantcore.studies.granularity import BLOCK_SIZES, GROUP_SIZES, GranularityStudy
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import granularity as figures
from ui.settled import settled
from ui.sidebar import Choice
from ui.words import granularity as words
from ui.words import layer as layer_words

TITLE = "Granularity"
SECTION = "Learn"
COARSEST = "int2"  # with one scale for all its errors are the largest: every format's colours begin there
CODED = [one.name for one in SCALES.values() if one.is_coded]
FORMATS = ["int2", "int3", "int4", "int8", "fp4_e2m1", "fp8_e4m3"]

LOOK_FOR = (
    "Every tile of the weight is rounded on a grid that its own largest value stretches. "
    "Watch the error map pale as tiles shrink, and the bits per weight rise because each tile brings a scale. A scale "
    "may be a code itself: half the bits, and a coarser grid under each tile."
)
TRIES: frame.Tries = [
    ("one scale for all", {"grain": "tensor", "format": "int4"}),
    ("groups of 32, 3 bits", {"grain": "group", "group": 32, "format": "int3"}),
    ("fp4 hides outliers", {"grain": "channel", "format": "fp4_e2m1"}),
    ("MXFP4: powers of two", {"grain": "group", "group": 32, "format": "fp4_e2m1", "stored": "e8m0"}),
    ("NVFP4: fp8 scales", {"grain": "group", "group": 16, "format": "fp4_e2m1", "stored": "e4m3"}),
]


def table(study: GranularityStudy) -> pd.DataFrame:
    """Every granularity for the eye; the chosen one is marked."""
    rows = [
        {
            "granularity": f"**{row.name}**" if row == study.chosen else row.name,
            "scales": f"{row.scales:,}",
            "bits per weight": f"{row.bits_per_weight:.3f}",
            "SQNR of the output, median token, dB": f"{row.token_sqnr_db:.2f}",
            "of the whole output, dB": f"{row.output_sqnr_db:.2f}",
            "of the weight, dB": f"{row.weight_sqnr_db:.2f}",
        }
        for row in study.rows
    ]
    return pd.DataFrame(rows).set_index("granularity")


def dividing(sizes: Sequence[int], *widths: int) -> list[int]:
    """Those of the sizes that divide all of the widths; where none does, their largest divisor below the largest."""
    return [size for size in sizes if not any(width % size for width in widths)] or [
        largest_divisor(math.gcd(*widths), max(sizes))
    ]


def tile_control(label: str, sizes: list[int], default: int, key: str) -> int:
    """A size of those that divide the layer; a slider needs two."""
    default = controls.follow_default(key, default if default in sizes else max(sizes))
    return controls.pick(label, sizes, default, key) if len(sizes) < 2 else controls.steps(label, sizes, default, key)


def body(choice: Choice) -> None:
    rows, cols = choice.lab.layers()[choice.layer]
    groups, blocks = dividing(GROUP_SIZES, cols), dividing(BLOCK_SIZES, rows, cols)
    fitting = int(choice.lab.grain.removeprefix("group")) if choice.lab.grain != "channel" else max(groups)
    with frame.controls_in_sight():
        fmt = controls.pick("Format", FORMATS, "int4", "format")
        grain = controls.pick("Granularity", ["tensor", "channel", "group", "block"], "group", "grain")
        with st.container(width=190, key="steady_size"):
            if grain == "group":
                grain += str(tile_control("Group size, along the input", groups, fitting, "group"))
            elif grain == "block":
                side = tile_control("Block, rows = columns", blocks, max(blocks), "block")
                grain = f"block{side}x{side}"
        symmetric = controls.switch("symmetric (no zero point)", True, "symmetric")
        stored = FLOAT.name
        if symmetric and grain.startswith("group"):
            stored = controls.pick("A scale is stored as", [FLOAT.name, *CODED], FLOAT.name, "stored")
    scheme = "/".join(
        [f"w:{fmt}", grain, *([] if stored == FLOAT.name else [stored]), *([] if symmetric else ["asym"])]
    )
    wanted = (choice.layer, scheme, choice.reading)
    title = f"{scheme.removeprefix('w:')} on {choice.layer}"
    drawn = settled("granularity", title, choice.lab, wanted, lambda *asked: [(Lab.granularity, *asked)])
    if drawn is None:
        return
    layer, scheme, reading = drawn
    choice = replace(choice, layer=layer, reading=reading)
    study = choice.lab.granularity(layer, scheme, reading)

    chosen = study.chosen
    rows, cols = study.tile
    frame.headline(words.headline(study))
    scales = f"**{chosen.scales:,}** scale{'s' * (chosen.scales > 1)}"
    st.markdown(
        f"`{scheme}`: one scale for **{rows} x {cols} = {rows * cols:,}** weights, so {scales} of "
        f"shape `{list(chosen.scale_shape)}` on a weight of `{list(study.shape)}` (output x input)."
    )
    frame.metrics(
        {
            "Bits per weight": f"{chosen.bits_per_weight:.3f}",
            "SQNR of the output, median token": f"{chosen.token_sqnr_db:z.2f} dB",
            "SQNR of the whole output": f"{chosen.output_sqnr_db:z.2f} dB",
            "SQNR of the weight": f"{chosen.weight_sqnr_db:z.2f} dB",
        }
    )
    if study.giant.rules:
        st.markdown(layer_words.giant(study.giant, choice.lab.token_texts(choice.reading)))
    with st.grid(3, min_column_width=270):
        chart(
            figures.weight_map(study, choice.lab.weight_limit(choice.layer)),
            key="weight_map",
            alt=f"weight of {choice.layer}, tiles of {rows} x {cols}; the worst tile is {study.worst_tile}",
        )
        chart(
            figures.scale_map(study),
            key="scale_map",
            alt=f"{chosen.scales} scales from {float(study.scale.min()):.3g} to {float(study.scale.max()):.3g}",
        )
        chart(
            figures.error_map(study, choice.lab.coarsest_error(choice.layer, COARSEST)),
            key="error_map",
            alt=f"largest error {float(study.error.values.max()):.3g}",
        )
    with st.grid(2, min_column_width=430):
        chart(
            figures.cost_curve(study),
            key="cost_curve",
            alt=f"{chosen.granularity}: median token {chosen.token_sqnr_db:z.1f} dB at {chosen.bits_per_weight:.2f} "
            "bits per weight",
        )
        st.table(table(study))
    frame.numbers(pd.DataFrame(study.rows), "granularity")


frame.show(__file__, "Who shares a scale?", LOOK_FOR, TRIES, body)
