"""What the scenes' pictures share: large type, no title (the question stands above), the guess and the truth marked."""

from __future__ import annotations

from math import log10
from typing import Any

import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.model.layer_names import expert_of, place_of
from quantcore.model.linears import linear_shapes
from quantcore.scheme.scheme import Scheme
from ui.components.chart import Over
from ui.components.palette import GREEN, VERMILION
from ui.figures.base import figure

SIZE = 15  # pixels: read from the back of a room
ROW = 22  # pixels from one mark's name down to the other's


def picture(x: str, y: str, height: int, **layout: Any) -> go.Figure:
    fig = figure("", x, y, height, **{"font": {"size": SIZE}, "margin": {"l": 8, "r": 12, "t": 34, "b": 8}, **layout})
    fig.update_layout(title=None)
    return fig


def fitted(fig: go.Figure, height: int, **layout: Any) -> go.Figure:
    """A page's picture at a scene's height, its title smaller; the picture itself stays as it was."""
    made = go.Figure(fig)
    made.update_layout(height=height, margin={"l": 8, "r": 8, "t": 40, "b": 8}, **layout)
    return made


def marks(fig: go.Figure, axis: str, guess: float | None, truth: float | None) -> Over:
    """The guess as a dashed line across an axis, and the truth as a solid one; their names stand in two rows,
    each on the side where the picture goes on.

    Of each visitor of a class another: so they are laid over the picture where it is sent, not drawn into a copy."""
    apart = guess is not None and (truth is None or abs(guess - truth) > 1e-9)
    lines = [(truth, "measured", GREEN, "solid", 0)]
    lines += [(guess, "your guess", VERMILION, "dash", -ROW)] if apart else []
    middle = _middle(fig, axis)
    over: Over = {"shapes": [], "annotations": []}
    for value, name, colour, dash, lower in lines:
        if value is None:
            continue
        side = "right" if value < middle else "left"  # of the line, into the picture
        across = "y" if axis == "x" else "x"
        over["shapes"].append(
            {
                "type": "line",
                "line": {"color": colour, "width": 3, "dash": dash},
                **_span(axis, value, value),
                **_span(across, 0, 1, " domain"),
            }
        )
        at = log10(value) if fig.layout[f"{axis}axis"].type == "log" else value  # as plotly.js wants it of annotations
        over["annotations"].append(
            {
                "text": name,
                "font": {"color": colour, "size": SIZE},
                "showarrow": False,
                axis: at,
                f"{axis}ref": axis,
                across: 1,
                f"{across}ref": f"{across} domain",
                "xanchor": {"left": "right", "right": "left"}[side] if axis == "x" else "right",
                "yanchor": "top" if axis == "x" else "bottom",
                **({"yshift" if axis == "x" else "xshift": lower * (1 if axis == "x" else 5)} if lower else {}),
            }
        )
    return over


def _middle(fig: go.Figure, axis: str) -> float:
    """Halfway along what the picture shows on an axis."""
    values = [float(one) for trace in fig.data for one in trace[axis]]
    return (min(values) + max(values)) / 2


def _span(axis: str, start: float, stop: float, of: str = "") -> dict[str, Any]:
    return {f"{axis}0": start, f"{axis}1": stop, f"{axis}ref": f"{axis}{of}"}


def short(layer: str) -> str:
    """A layer as it is said: `block 1, down_proj`; of an expert `block 1, expert 5, down_proj`."""
    parts = layer.split(".")
    expert = expert_of(layer)
    names = [parts[-1]] if expert is None else [f"expert {expert[1]}", parts[-1]]
    number, _ = place_of(layer) if expert is None else place_of(expert[0])
    return ", ".join(names if number is None else [f"block {number}", *names])


def built(lab: Lab) -> str:
    """What blocks and layers are, for who knows what a weight is: in a sentence, on this model."""
    kinds = kinds_of(lab)
    return (
        f"The model is {lab.contents().blocks} blocks, one behind another; each has its **layers**, which are tables "
        f"of weights, of {len(kinds)} kinds: {kinds[0]} to {kinds[-1]}."
    )


def kinds_of(lab: Lab) -> list[str]:
    """What the layers of a block are called that a scheme quantizes, as q_proj, in the model's order."""
    asked = Scheme.parse("w:int4/channel")
    names = [name for name in linear_shapes(lab.model) if place_of(name)[0] is not None and not asked.skips(name)]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))
