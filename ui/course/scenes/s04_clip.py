"""Clip: where would you cut a range?"""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.studies.cut import CutCurve
from ui.components.palette import BLUE, SLATE
from ui.course.guess import Number
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import picture, short

FORMAT = "int4"
BINS = 60


def find(lab: Lab) -> Specimen | Missing:
    best = lab.uneven()
    if best is None:
        return Missing("This model has no Linear that a scheme quantizes, so there is no range to cut.")
    counts = lab.value_counts(best.layer, bins=2 * BINS)
    reach = max(map(abs, lab.value_range(best.layer)))
    inside = [(lo, hi, n) for lo, hi, n in zip(counts.edges, counts.edges[1:], counts.counts, strict=False) if hi > 0]
    said = (
        f"{short(best.layer).capitalize()} has weights up to **{reach:.3g}**, and its rows differ most of this model's "
        f"{best.of} layers: the largest reaches {best.figure:.0f} times as far as the median one. All share one int4 "
        "scale. What is cut off becomes the last code; what is left gets finer steps. Cut at what share of the reach?"
    )
    guess = Number(
        "%",
        4,
        100,
        2,
        near=4,
        name="cut, % of the largest |weight|; behind it how many weights (log)",
        ticks=tuple((float(at), f"{at}%") for at in (4, 20, 40, 60, 80, 100)),
        counts=tuple(float(n) for _, _, n in inside),
        edges=tuple(min(105.0, 100 * max(lo, 0.0) / reach) for lo, _, _ in inside) + (105.0,),
    )
    return Specimen(said, guess, of=best.layer)


def reveal(lab: Lab, found: Specimen) -> Reveal:
    curve = lab.cut(found.of, FORMAT)
    best = curve.best
    cut = curve.cuts[best]
    why = (
        f"Uncut, the steps are so wide that {curve.sqnr_db[-1]:z.1f} dB are left. Cut at {cut:.0%}, "
        f"{1e6 * curve.clipped[best]:,.0f} in a million weights are clipped, all others get steps {1 / cut:.1f} times "
        f"finer: **{curve.sqnr_db[best]:z.1f} dB**. Cut further, and the clipped ones cost more than the rest gains."
    )
    twist, giant = "", lab.giant()
    if giant is not None:
        curves = lab.remedies(giant.layer, "int8")
        kindest, before = curves.kindest_clip("tensor"), curves.at("p100", 0)[0]
        twist = (
            f"Not every large value may go. Cutting what enters {short(giant.layer)} where it is kindest to the median "
            f"token ({kindest.clip}) gives that token {kindest.token_sqnr_db - before.token_sqnr_db:+z.0f} dB and the "
            f"layer's output {kindest.output_sqnr_db - before.output_sqnr_db:+z.0f} dB: the giant carries the output."
        )
    answer = f"At **{cut:.0%}** of the reach."
    said = f"the least error is at a cut of {cut:.0%}, {curve.sqnr_db[best]:z.1f} dB; uncut {curve.sqnr_db[-1]:z.1f} dB"
    more = "pages/1_Number_formats.py", {"layer": found.of, "formats": [FORMAT]}
    return Reveal(f"{100 * cut:.0f}", answer, why, (Shown(error(curve), said, 420),), twist, mark="x", more=more)


def error(curve: CutCurve) -> go.Figure:
    fig = picture("cut, % of the largest |weight|", "what is left, SQNR in dB", 420, showlegend=False)
    fig.add_trace(
        go.Scatter(
            x=[100 * cut for cut in curve.cuts],
            y=list(curve.sqnr_db),
            customdata=[100 * share for share in curve.clipped],
            mode="lines+markers",
            line={"color": BLUE, "width": 3},
            marker={"size": 6},
            hovertemplate="cut at %{x:.0f}%: %{y:.1f} dB, %{customdata:.3g}% clipped<extra></extra>",
        )
    )
    fig.add_hline(curve.sqnr_db[-1], line={"color": SLATE, "dash": "dot"}, annotation_text="uncut")
    return fig


SCENE = Scene("clip", "Clip", "Where would you cut?", find, reveal)
