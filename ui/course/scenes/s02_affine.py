"""x = S (q - Z): which code does a real weight get?"""

from __future__ import annotations

from quantcore.lab.lab import Lab
from quantcore.studies.number_formats import Grid, Snap
from ui.components.number_line import Line, number_line
from ui.course.guess import Number
from ui.course.scene import Reveal, Scene, Shown, Specimen
from ui.course.stage import short

FORMAT = "int4_asym"
HEIGHT = 430


def find(lab: Lab) -> Specimen:
    """Of some neighbours in a loud row of the default layer, the largest weight."""
    layer = lab.default_layer()
    grid = lab.fitted_grid(layer, FORMAT)
    row = lab.row(layer, "w:int4/channel", 0.9)
    lo, hi = lab.value_range(layer)
    x = float(row.weight.max())
    codes = grid.fmt.grid().tolist()
    said = (
        f"A weight of {short(layer)}, one of the model's {len(lab.layers())} tables of weights: **x = {x:.4g}**. What "
        f"is kept of it is a code q, which stands for **S (q - Z)**. This table's values lie between {lo:.3g} and "
        f"{hi:.3g}, so {len(codes)} codes stand **S = {grid.scale:.4g}** apart, and the real 0 has the code "
        f"**Z = {grid.zero_point}**. (x is the largest of {len(row.weight)} neighbours in a loud row.)"
    )
    ticks = tuple((float(code), f"{code:.0f}") for code in codes)
    guess = Number("", codes[0], codes[-1], 1, near=0, name="code q", ticks=ticks)
    return Specimen(said, guess, of=(layer, grid, x))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, grid, x = found.of
    _, snapped = lab.format_use(layer, FORMAT, grid.scale, grid.zero_point, x)
    formula = (
        f"x / S = {x:.4g} / {grid.scale:.4g} = {snapped.steps:.2f}; rounded, and Z = {grid.zero_point} added: "
        f"q = {snapped.q:.0f}. Back: S (q - Z) = {snapped.x_hat:.4g}"
    )
    return Reveal(
        f"{snapped.q:.0f}",
        f"Code **{snapped.q:.0f}**, which stands for {snapped.x_hat:.4g}.",
        f"{formula}, so the error is **{snapped.error:+.2g}**, at most half a step ({grid.scale / 2:.2g}). Drag x: it "
        "jumps to the nearest level, and the sum goes along.",
        (Shown(lambda key: draw(lab, layer, grid, snapped, key), formula, HEIGHT),),
        more=("pages/1_Number_formats.py", {"layer": layer, "formats": [FORMAT]}),
    )


def draw(lab: Lab, layer: str, grid: Grid, snapped: Snap, key: str) -> None:
    """The number line of the page Number formats, with this one grid."""
    counts = lab.value_counts(layer)
    codes = grid.fmt.grid().tolist()
    line = Line(
        label=grid.label,
        colour="blue",
        codes=codes,
        even=[int(code) % 2 == 0 for code in codes],
        scale=grid.scale,
        zero_point=grid.zero_point,
    )
    x = min(max(snapped.x, counts.lo), counts.hi)
    number_line(
        [line],
        key=key,
        lo=counts.lo,
        hi=counts.hi,
        x=x,
        counts=counts.counts,
        edges=counts.edges,
        label=short(layer),
    )


SCENE = Scene("affine", "x = S (q - Z)", "Which code q does this number get?", find, reveal)
