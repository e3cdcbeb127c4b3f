"""Which values exist, and what happens to one number? Up to three formats on one axis, over a real tensor."""

import pandas as pd
import streamlit as st

from quantcore.lab.bench import READ
from quantcore.lab.grids import Of
from quantcore.lab.lab import Lab
from quantcore.numbers.formats import FORMATS
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.components.number_line import Line, number_line
from ui.figures.coded_scales import three_lines
from ui.figures.number_formats import code_bars
from ui.sidebar import Choice

TITLE = "Number formats"
SECTION = "Learn"
COLOURS = ("blue", "vermilion", "green")
CHOICES = [
    *(name for name in FORMATS if "narrow" not in name),
    *(f"{name}_asym" for name in FORMATS if name.startswith("int") and "narrow" not in name),
]
START = ["int4", "int4_asym", "fp4_e2m1"]
FEW = ["int8", "int4", "int4_asym", "int3", "fp8_e4m3", "fp4_e2m1"]
LOOK_FOR = (
    "A code of 4 bits names 16 numbers at most (fp4 names 15: two of its codes are 0): drag the value and watch it "
    "jump to the nearest one. "
    "Integers stand at equal distances, floats crowd around zero; codes that no weight uses are paid for all the same."
)
TRIES: frame.Tries = [
    ("4 bits: int4 or fp4", {"formats": ["int4", "fp4_e2m1"]}),
    ("8 bits: int8 or fp8", {"formats": ["int8", "fp8_e4m3"], "of": "inputs"}),
]


def tries(choice: Choice) -> frame.Tries:
    """On the loaded model: the layer whose input reaches furthest to one side, where a zero point has most to win (with
    8 bits: with 4 most values fall on 0 either way); only once the model has read anyway, for a preset is not worth a
    wait."""
    found = choice.lab.one_sided() if choice.lab.remembers(Lab.stats, READ) else None
    if found is None:
        return TRIES
    asked = {"formats": ["int8", "int8_asym"], "of": "inputs", "layer": found.layer}
    return [*TRIES, ("far to one side: a zero point wins", asked)]


def offered() -> list[str]:
    """The formats to choose from: six and those that a link names, or all where the switch asks for them."""
    asked = {*st.query_params.get_all("formats"), *st.session_state.get("formats", [])}
    more = st.query_params.get("all") == "true" or st.session_state.get("all", False)
    return CHOICES if more else [one for one in CHOICES if one in FEW or one in asked]


def body(choice: Choice) -> None:
    with frame.controls_in_sight():
        names = controls.several("Formats on the axis (up to three)", offered(), START, "formats")
        weight = controls.pick("Tensor behind them", ["weight", "inputs"], "weight", "of") == "weight"
        controls.switch("all formats", False, "all")
    lab = choice.lab
    seen: tuple[Of, str] = ("weight" if weight else "inputs", choice.reading)
    where = (lab.id, lab.device, choice.layer, *seen)
    histogram = lab.value_counts(choice.layer, *seen)
    bases = [lab.fitted_grid(choice.layer, name, *seen) for name in names]
    multiples = controls.start_numbers("scales", [1.0] * len(names), tuple(names) + where)
    zeros = controls.start_numbers("zeros", [float(base.zero_point or 0) for base in bases], tuple(names) + where)
    start_x = controls.start_numbers("x", [lab.large_value(choice.layer, *seen)], where)[0]
    lines = [
        Line(
            label=base.label,
            colour=colour,
            codes=base.fmt.grid().tolist(),
            even=[(i - len(base.fmt.grid()) // 2) % 2 == 0 for i in range(len(base.fmt.grid()))],
            scale=base.scale * multiple,
            zero_point=None if base.zero_point is None else int(zero),
            integer=not base.fmt.is_float,
        )
        for base, colour, multiple, zero in zip(bases, COLOURS, multiples, zeros, strict=False)
    ]
    setting = number_line(
        lines,
        key=f"axis{controls.resets()}",
        lo=histogram.lo,
        hi=histogram.hi,
        x=min(max(start_x, histogram.lo), histogram.hi),
        counts=histogram.counts,
        edges=histogram.edges,
        label=f"{'weights' if weight else 'inputs'} of {choice.layer}",
    )
    controls.keep_numbers("x", [setting.x])
    controls.keep_numbers("scales", [scale / base.scale for scale, base in zip(setting.scales, bases, strict=True)])
    controls.keep_numbers("zeros", [float(zero or 0) for zero in setting.zero_points])

    rows = []
    with st.grid(3, min_column_width=250):
        for name, scale, zero, colour in zip(names, setting.scales, setting.zero_points, COLOURS, strict=False):
            use, snapped = lab.format_use(choice.layer, name, scale, zero, setting.x, *seen)
            chart(
                code_bars(use, colour),
                key=f"codes_{colour}",
                alt=f"{use.grid.label}: {use.unused} of {len(use.counts)} codes unused, SQNR {use.sqnr_db:z.1f} dB",
            )
            rows.append(
                {
                    "format": use.grid.label,
                    "scale": scale,
                    "zero point": zero,
                    "x": snapped.x,
                    "q": snapped.q,
                    "x_hat": snapped.x_hat,
                    "error": snapped.error,
                    "clipped": snapped.clipped,
                    "codes": len(use.counts),
                    "unused codes": use.unused,
                    "values clipped, %": 100 * use.clipped_share,
                    "SQNR of the tensor, dB": use.sqnr_db,
                }
            )
    frame.numbers(pd.DataFrame(rows), "number_formats")
    coded_scales(choice)


def coded_scales(choice: Choice) -> None:
    """A scale that is a number of few bits itself: three lines under one hand."""
    st.header("And the scale is a number, too")
    if choice.lab.shapes()[choice.layer][1] % 32:
        st.caption("Blocks of 32 do not divide this layer's rows; open another one.")
        return
    times = controls.slide("Multiply the block's numbers by", 1.0, 2.0, 1.0, "times", 0.05)
    blocks = {name: choice.lab.coded_block(choice.layer, name, times) for name in ("MXFP4A16", "NVFP4A16")}
    shown = dict(zip(("MXFP4", "NVFP4"), blocks.values(), strict=True))
    told = "; ".join(f"{name} reaches **{min(one.used, 1):.0%}** of its grid" for name, one in shown.items())
    st.markdown(
        f"{told}. MXFP4 stores powers of two: its scale waits, then doubles. NVFP4 stores fp8 numbers and follows."
    )
    said = [
        f"{name}: scale {one.scale:.4g} for {one.exact:.4g}, SQNR {one.sqnr_db:.1f} dB" for name, one in shown.items()
    ]
    chart(three_lines(shown), key="coded_scales", alt="; ".join(said))


frame.show(__file__, "Which values exist, and what happens to one number?", LOOK_FOR, tries, body)
