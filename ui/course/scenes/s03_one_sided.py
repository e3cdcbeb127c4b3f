"""Symmetric or not: which grid leaves more codes unused on values that reach to one side?"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from quantcore.lab.bench import READ
from quantcore.lab.lab import Lab
from quantcore.numbers.digits import digits
from quantcore.studies.number_formats import CodeUse
from ui.components.palette import BLUE, MUTED, PURPLE
from ui.course.guess import Pick
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import picture, short

WAYS = (("int4", "symmetric", BLUE), ("int4_asym", "asymmetric", PURPLE))
SAME = "the same"
GUESS = Pick("symmetric", "asymmetric", SAME)


def find(lab: Lab) -> Specimen | Missing:
    best = lab.one_sided()
    if best is None:
        return Missing(
            "None of this model's layers gets values that reach twice as far to one side as to the other without a "
            "single giant token: nothing to show here. Models whose MLP ends in a ReLU or a GELU have such layers."
        )
    counts = lab.value_counts(best.layer, "inputs")
    lo, hi = lab.value_range(best.layer, "inputs")
    said = (
        f"What enters {short(best.layer)} reaches from **{digits(lo)}** to **{digits(hi)}**: {best.figure:.1f} times "
        f"further to one side, the most of this model's {best.of} layers (but those that one giant token stretches). "
        "int4 has 16 codes. Symmetric: 0 in the middle. Asymmetric: from end to end."
    )
    fig = picture("value that enters the layer", "how many (log)", 330, showlegend=False)
    fig.add_trace(_histogram(counts.counts, counts.edges))
    fig.update_yaxes(type="log")
    return Specimen(said, GUESS, (Shown(fig, f"values from {digits(lo)} to {digits(hi)}", 330),), best.layer)


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer = found.of
    uses: dict[str, CodeUse] = {}
    for fmt, name, _ in WAYS:
        grid = lab.fitted_grid(layer, fmt, "inputs")
        uses[name], _ = lab.format_use(layer, fmt, grid.scale, grid.zero_point, 0.0, "inputs", READ)
    one, other = uses["symmetric"], uses["asymmetric"]
    if one.unused == other.unused:
        truth, answer = SAME, f"The same: {one.unused} of 16 codes each."
    else:
        truth = "symmetric" if one.unused > other.unused else "asymmetric"
        answer = f"**{truth.capitalize()}**: {one.unused} of 16 codes lie idle, against {other.unused}."
    why = (
        f"Half of the symmetric codes are kept for the side that the values hardly use, so its steps are "
        f"{one.grid.scale / other.grid.scale:.2f} times as wide: {one.sqnr_db:.1f} against {other.sqnr_db:z.1f} dB."
    )
    twist, giant = "", lab.giant()
    if giant is not None:
        first, last = map(digits, lab.value_range(giant.layer, "inputs"))
        twist = (
            f"{short(giant.layer).capitalize()} reaches from {first} to {last}, but for one token only. No zero point "
            "helps there; the giant has a scene of its own."
        )
    said = f"unused codes: symmetric {one.unused}, asymmetric {other.unused} of 16"
    more = "pages/1_Number_formats.py", {"layer": layer, "of": "inputs", "formats": [fmt for fmt, *_ in WAYS]}
    return Reveal(GUESS.of(truth), answer, why, (Shown(both(uses), said, 450),), twist, more=more)


def both(uses: dict[str, CodeUse]) -> go.Figure:
    """A bar a code at its real value, symmetric above, asymmetric below, on one axis; a cross where no value falls."""
    fig = picture("value that the code stands for", "", 450, showlegend=False)
    for place, (_, name, colour) in enumerate(WAYS):
        use, axis = uses[name], "y" if place == 0 else "y2"
        levels, counts = use.grid.levels().numpy(), np.array(use.counts, float)
        fig.add_trace(
            go.Bar(
                x=levels, y=np.maximum(counts, 0.5), width=0.7 * use.grid.scale, marker={"color": colour}, yaxis=axis,
                customdata=counts, hovertemplate="%{x:.3g}: %{customdata:.0f} values<extra></extra>",
            )
        )  # fmt: skip
        idle = counts == 0
        cross = {"symbol": "x-thin", "size": 10, "line": {"width": 2, "color": MUTED}}
        fig.add_trace(
            go.Scatter(
                x=levels[idle], y=np.full(int(idle.sum()), 1.5), mode="markers", marker=cross, yaxis=axis,
                hovertemplate="%{x:.3g}: no value<extra></extra>",
            )
        )  # fmt: skip
    ends = [float(use.grid.levels()[end]) for use in uses.values() for end in (0, -1)]
    room = max(use.grid.scale for use in uses.values())
    fig.update_xaxes(range=[min(ends) - room, max(ends) + room], anchor="y2")
    log = {"type": "log", "automargin": True, "dtick": 2}
    fig.update_layout(
        yaxis={**log, "domain": [0.54, 1], "title": {"text": f"symmetric, {uses['symmetric'].unused} idle"}},
        yaxis2={**log, "domain": [0, 0.46], "title": {"text": f"asymmetric, {uses['asymmetric'].unused} idle"}},
    )
    return fig


def _histogram(counts: tuple[int, ...], edges: tuple[float, ...]) -> go.Bar:
    middles = [(lo + hi) / 2 for lo, hi in zip(edges, edges[1:], strict=False)]
    return go.Bar(
        x=middles, y=list(counts), marker={"color": MUTED}, hovertemplate="near %{x:.3g}: %{y}<extra></extra>"
    )


SCENE = Scene("one_sided", "Symmetric or not", "Which grid wastes more of its codes here?", find, reveal)
