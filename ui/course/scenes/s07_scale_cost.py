"""What a scale costs: bits a weight, counted."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.numbers.formats import format_named
from quantcore.studies.granularity import GranularityRow
from ui.components.palette import BLUE, VERMILION
from ui.course.guess import Number
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import picture, short

FORMAT, GROUPS = "int4", (32, 16, 64)


def find(lab: Lab) -> Specimen | Missing:
    best = lab.uneven()
    if best is None:
        return Missing("This model has no Linear that a scheme quantizes, so there is nothing to count.")
    rows, columns = lab.layers()[best.layer]
    group = next((size for size in GROUPS if columns % size == 0), None)
    if group is None:
        sizes = ", ".join(map(str, GROUPS))
        return Missing(f"{short(best.layer).capitalize()} has {columns} inputs, which no group of {sizes} divides.")
    said = (
        f"The same layer, {short(best.layer)}: {rows:,} x {columns:,} weights, 4 bits each. Every **{group}** weights "
        "share a scale, and a scale has 16 bits. How many bits does a weight take in all?"
    )
    guess = Number("bits", 4, 8, 0.25, near=0.01, name="bits a weight, scales counted")
    return Specimen(said, guess, of=(best.layer, group))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, group = found.of
    study = lab.granularity(layer, f"w:{FORMAT}/group{group}")
    chosen, bits = study.chosen, format_named(FORMAT).bits
    weights = math.prod(study.shape)
    scales = round((chosen.bits_per_weight - bits) * weights / 8)
    why = (
        f"{weights:,} codes take {weights * bits // 8:,} bytes, {chosen.scales:,} scales {scales:,} more: "
        f"{bits} + 16 / {group} = **{chosen.bits_per_weight:.3g}** bits a weight, "
        f"{scales / (weights * bits / 8):.0%} on top. Half the group, twice the price."
    )
    rows = [row for row in study.rows if row.name == row.granularity and not row.name.startswith("block")]
    coarse = next(row for row in rows if row.granularity == "channel")
    twist = (
        f"What it buys: {chosen.weight_sqnr_db - coarse.weight_sqnr_db:+z.1f} dB over a scale a row. One more bit in "
        f"each code would buy about 6 dB, and cost {1 / (chosen.bits_per_weight - coarse.bits_per_weight):.1f} times "
        "as much."
    )
    answer = f"**{chosen.bits_per_weight:.3g} bits**."
    more = "pages/2_Granularity.py", {"layer": layer, "format": FORMAT, "grain": "group", "group": group}
    shown = Shown(counted(rows, bits), why.replace("*", ""), 420)
    return Reveal(f"{chosen.bits_per_weight:.6g}", answer, why, (shown,), twist, more=more)


def counted(rows: list[GranularityRow], bits: int) -> go.Figure:
    """Codes and scales, bit by bit."""
    names = [row.granularity.replace("channel", "row") for row in rows]
    over = [row.bits_per_weight - bits for row in rows]
    fig = picture(
        "whose scale", "bits a weight", 420, barmode="stack", bargap=0.35, showlegend=True, legend={"y": 1.12, "x": 0}
    )
    fig.add_trace(go.Bar(x=names, y=[bits] * len(rows), name="codes", marker={"color": BLUE}))
    fig.add_trace(
        go.Bar(
            x=names,
            y=over,
            name="scales",
            marker={"color": VERMILION},
            text=[f"{row.bits_per_weight:.3g} bits<br>{row.weight_sqnr_db:z.1f} dB" for row in rows],
            textposition="outside",
            cliponaxis=False,
        )
    )
    fig.update_yaxes(range=[0, 1.25 * max(row.bits_per_weight for row in rows)])
    return fig


SCENE = Scene("scale_cost", "What a scale costs", "How many bits does a weight take, its scale counted?", find, reveal)
