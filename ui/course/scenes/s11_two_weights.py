"""GPTQ with two weights: where will it land?"""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.studies.gptq_toy import Toy, toy
from ui.components.palette import INK, SLATE
from ui.course.guess import Pick
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import fitted, picture, short
from ui.figures.gptq import toy as toy_picture

CORNERS = ((0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0))  # A B above, C D below: as they are drawn
NAMES = ("A", "B", "C", "D")
ELSEWHERE = "further away"
GUESS = Pick(*NAMES, ELSEWHERE)


def layer_of(lab: Lab) -> str:
    wall = lab.wall()
    return lab.default_layer() if wall is None else wall.layer


def find(lab: Lab) -> Specimen | Missing:
    layer = layer_of(lab)
    pair = lab.pair(layer)
    found = toy(*pair.weights, pair.correlation, pair.scale)
    one, two = pair.columns
    if abs(pair.correlation) < 0.1:
        return Missing(
            f"The inputs of {short(layer)} go together too little (correlation {pair.correlation:.2f} at most): with "
            "nothing to push the error to, GPTQ rounds as anyone would."
        )
    said = (
        f"Two real weights of {short(layer)}, row {pair.row}: inputs {one} and {two}, which go together most "
        f"(correlation **{pair.correlation:+.2f}**; input {one} is {pair.scale:.2f} times as loud). In steps they "
        f"stand at ({pair.weights[0]:.2f}, {pair.weights[1]:.2f}). GPTQ rounds weight {found.first + 1} first, then "
        "moves the other so that the layer's output changes least, and rounds that. Where does it end?"
    )
    before = Shown(corners(found), "the four lattice points around the two weights: A, B above, C, D below", 400)
    return Specimen(said, GUESS, (before,), (layer, found))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, pair = found.of
    rtn, best = pair.point("RTN"), pair.point("best")
    way = ("GPTQ, 1 first", "GPTQ, 2 first")[pair.first]
    gptq = pair.point(way)
    truth = name_of(gptq.point)
    stop = gptq.moved or gptq.point
    other = 1 - pair.first
    why = (
        f"Weight {pair.first + 1} goes to {gptq.point[pair.first]:g}. To make up for it the other moves from "
        f"{pair.weight[other]:.2f} to {stop[other]:.2f}, along the valley of the loss, and only then is rounded. Loss "
        f"**{gptq.loss:.3g}**; rounding both to nearest ({name_of(rtn.point)}) loses {rtn.loss:.3g}."
    )
    ending = "the best of all points" if gptq.point == best.point else f"not the best, which loses {best.loss:.3g}"
    twist = (
        f"Here it found {ending}. Over 1,000 random pairs with this correlation its loss is "
        f"{pair.mean_loss[way]:.0%} of rounding's; the best points would have {pair.mean_loss['best']:.0%}."
    )
    answer = f"At **{truth}**: ({gptq.point[0]:g}, {gptq.point[1]:g})."
    fig = named(fitted(toy_picture(pair), 450, title=None))
    more = "pages/6_GPTQ_step_by_step.py", {"layer": layer}
    return Reveal(GUESS.of(truth), answer, why, (Shown(fig, why.replace("*", ""), 450),), twist, more=more)


def name_of(point: tuple[float, float]) -> str:
    return NAMES[CORNERS.index(point)] if point in CORNERS else ELSEWHERE


def corners(pair: Toy) -> go.Figure:
    fig = picture("weight 1, steps", "weight 2, steps", 400, showlegend=False)
    fig.add_trace(
        go.Scatter(
            x=[x for x in range(-1, 3) for _ in range(4)],
            y=[y for _ in range(4) for y in range(-1, 3)],
            mode="markers",
            marker={"color": SLATE, "size": 8},
            hoverinfo="skip",
        )
    )
    fig.add_trace(
        go.Scatter(
            x=[pair.weight[0]],
            y=[pair.weight[1]],
            mode="markers+text",
            text=["the weights"],
            textposition="bottom center",
            marker={"color": INK, "symbol": "diamond", "size": 15},
        )
    )
    named(fig)
    fig.update_xaxes(range=[-1.3, 2.3], dtick=1)
    fig.update_yaxes(range=[-1.3, 2.3], dtick=1, scaleanchor="x")
    return fig


def named(fig: go.Figure) -> go.Figure:
    for (x, y), name in zip(CORNERS, NAMES, strict=True):
        outward = {"xshift": 40 * x - 20, "yshift": 40 * y - 20}  # off the square, in whose midst the weights stand
        fig.add_annotation(x=x, y=y, text=f"<b>{name}</b>", showarrow=False, font={"size": 20}, **outward)
    return fig


SCENE = Scene(
    "two_weights",
    "GPTQ with two weights",
    "Where will GPTQ land?",
    find,
    reveal,
    slow="What GPTQ learns from: the inputs of one layer",
    slow_find=True,
)
