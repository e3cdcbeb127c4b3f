"""In which order? Eight columns sorted by hand, against diag(H)."""

from __future__ import annotations

import plotly.graph_objects as go

from quantcore.lab.bench import READ
from quantcore.lab.lab import Lab
from quantcore.lab.specimens import FEW_TOKENS
from quantcore.numbers.granularity import largest_divisor
from quantcore.studies.gptq_order import METHODS, OrderStudy
from ui.course.guess import Order
from ui.course.scene import Reveal, Scene, Shown, Specimen
from ui.course.scenes.s11_two_weights import layer_of
from ui.course.stage import fitted, short
from ui.figures.gptq import courses
from ui.words.gptq import percent, ratio

BITS, TOKENS = 3, 24
DECADES = 2.5  # of a card's height
HEIGHT = 400
NAMES = dict(  # as the sentence beside the picture says them
    zip(METHODS, ("rounding", "GPTQ, as the columns come", "GPTQ, by diag(H)", "GPTQ, groups follow too"), strict=True)
)
MOST_SPREAD = 1.5  # of a ratio's interval that is still told, its upper end over its lower one


def find(lab: Lab) -> Specimen:
    layer = layer_of(lab)
    columns = lab.few(layer)
    x = lab.inputs(layer, READ)[:, list(columns)].abs().cpu()
    x = x[:: max(1, len(x) // TOKENS)][:TOKENS]
    heights = (x / x.max()).clamp_min(10**-DECADES).log10() + DECADES  # or a wall is all that is seen
    curves = tuple(tuple(curve) for curve in heights.T.tolist())
    said = (
        f"Eight of the {lab.layers()[layer][1]:,} inputs of {short(layer)}, from its loudest to its quietest; each "
        f"card shows how large one is on {len(curves[0])} tokens (log). GPTQ rounds one column after "
        "another, and those still to come make up for it. Which should go first? Put the cards in order, first "
        "on the left."
    )
    guess = Order(tuple(f"input {column}" for column in columns), curves)
    return Specimen(said, guess, of=(layer, columns))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, columns = found.of
    study = order_of(lab, layer)
    rtn, plain, weight, group = (study.course(method) for method in METHODS)
    loudness = [float(study.diagonal[column]) for column in columns]
    guess = found.guess
    assert isinstance(guess, Order)
    truth = guess.of(sorted(range(len(columns)), key=lambda place: -loudness[place]))
    as_come = lab.by_hand(layer, tuple(range(len(columns))))
    sorted_way = lab.by_hand(layer, tuple(guess.places(truth)))
    costs = lab.gptq_cost(layer, f"w:int4/{_grain(lab, layer)}", FEW_TOKENS)
    one = costs.rows[0]
    why = (
        f"diag(H) says how loud each input is over all tokens; the loud go first, while many are left to make up for "
        f"them. On the whole layer GPTQ loses {ratio(plain.loss, rtn.loss)} of rounding's loss as the columns come, "
        f"**{ratio(weight.loss, rtn.loss)}** by diag(H), {ratio(group.loss, rtn.loss)} where groups follow the order "
        "too."
    )
    slow = (
        "the machine is too busy to time it now"
        if one.unsteady or one.ratio_hi > MOST_SPREAD * one.ratio_lo
        else f"measured here {one.ratio:.2f} times the time for one token ({one.ratio_lo:.2f} to {one.ratio_hi:.2f})"
    )
    carried = f"{costs.g_idx_bytes:,} bytes" if costs.g_idx_bytes else "nothing: this layer has one group"
    twist = (
        f"On these eight alone the order matters less: {as_come:.0%} as they come, {sorted_way:.0%} by diag(H). And "
        f"groups that follow the order need an index at run time, g_idx ({carried}): {slow}."
    )
    ordered = ", ".join(guess.cards[place].removeprefix("input ") for place in guess.places(truth))
    answer = f"**The loudest first**: {ordered}."
    said = f"loss of rounding {percent(rtn.loss / study.power)}, by diag(H) {percent(weight.loss / study.power)}"
    more = "pages/6_GPTQ_step_by_step.py", {"layer": layer}
    return Reveal(truth, answer, why, (Shown(losses(study), said, HEIGHT),), twist, more=more)


def of_guess(lab: Lab, text: str) -> str:
    """What the order made by hand loses, by the engine."""
    layer = layer_of(lab)
    share = lab.by_hand(layer, tuple(int(part) - 1 for part in text.split(",")))
    return f"Visited in your order, these eight lose {share:.1%} of rounding's loss."


def order_of(lab: Lab, layer: str) -> OrderStudy:
    return lab.gptq_order(layer, f"w:int{BITS}/{_grain(lab, layer)},gptq", READ, FEW_TOKENS)


def losses(study: OrderStudy) -> go.Figure:
    fig = fitted(courses(study), HEIGHT, title=None)
    return fig.for_each_trace(lambda trace: trace.update(name=NAMES.get(trace.name, trace.name)))


def _grain(lab: Lab, layer: str) -> str:
    width = lab.layers()[layer][1]
    group = largest_divisor(width, 64)
    return "channel" if group == width or group < 2 else f"group{group}"


SCENE = Scene(
    "order",
    "In which order",
    "Which of these columns should GPTQ round first?",
    find,
    reveal,
    slow="GPTQ in three orders",
    slow_find=True,
    of_guess=of_guess,
)
