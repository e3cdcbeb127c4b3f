"""What the page GPTQ step by step says in words and rows, with the numbers of its studies."""

from __future__ import annotations

import pandas as pd

from quantcore.studies.drift import AS_IT_IS, BY_GPTAQ, BY_GPTQ, BY_QRONOS, CORRECTED, ROUNDED, DriftStudy
from quantcore.studies.gptq_cost import OrderCost, OrderCosts
from quantcore.studies.gptq_map import OrderMap
from quantcore.studies.gptq_order import METHODS, OrderStudy
from quantcore.studies.gptq_steps import TileSteps
from quantcore.studies.gptq_toy import SAMPLES, Toy

ORDERS = (
    "**none**: from left to right. **weight**: the column with the largest diag(H) first; each column keeps the scale "
    "of the group that it lies in, so the order costs nothing at run time. **group**: groups are cut along the new "
    "order, which fits their scales better, and each column needs an index (`g_idx`) at run time."
)


BEHIND = (
    "Until here the layer read what it reads in the float model. In a quantized model the layers before it have moved "
    "its inputs, from X to X~, and GPTQ, which knows X~ alone, leaves that error. Qronos first corrects the whole "
    "weight, W to W', so that X~ W' comes close to X W, and then sweeps as GPTQ. Round the layers before to see it."
)


def percent(share: float) -> str:
    """Three digits: 12.3%, 1.40%, 0.559%; below a hundredth of a percent in parts per million."""
    value = 100 * share
    if 0 < value < 0.01:
        return f"{1e4 * value:.3g} ppm"
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3}f}%"


def ratio(part: float, whole: float) -> str:
    """A whole percentage, or two digits below 1%."""
    share = 100 * part / whole if whole else 100.0
    return f"{share:.0f}%" if share >= 0.95 or share == 0 else f"{share:.2g}%"


def tile(steps: TileSteps, shape: tuple[int, int], together: bool) -> str:
    """What the tile is, and how its sweep ends."""
    count = len(steps.columns)
    which = "that go together most" if together else "around the loudest one"
    gptq, rtn = float(steps.loss[-1]), float(steps.rtn_loss[-1])
    wrong, wrong_rtn = (
        float((steps.original - hat).square().sum() / steps.original.square().sum())
        for hat in (steps.quantized, steps.rtn)
    )
    ends = (
        "It does not put the weights right, it makes the errors cancel in the output."
        if gptq < rtn
        else "Here the pushes do not pay: each step is best for what is left, which does not promise a better end."
    )
    compared = "though its weights err **more**" if wrong > wrong_rtn else "and its weights do not err more"
    return (
        f"The tile: {len(steps.rows)} of the layer's {shape[0]} outputs, evenly spread, and the {count} of its "
        f"{shape[1]} inputs {which}, with the {count} x {count} numbers of the real Hessian between them; all other "
        f"columns stay exact, so the loss is that of the tile alone. In the end GPTQ's loss is "
        f"**{ratio(gptq, rtn)} of RTN's**, {compared}: {percent(wrong)} of the weights' power "
        f"against {percent(wrong_rtn)}. {ends}"
    )


def headline(study: OrderStudy, layer: str) -> str:
    """What pushing the error to the right saves on the real layer, and what an order adds."""
    rtn, plain, weight, _ = study.courses
    saved, with_order = ratio(plain.loss, rtn.loss), ratio(weight.loss, rtn.loss)
    adds = (
        f"with the loud columns first **{with_order}**"
        if weight.loss < plain.loss
        else f"with the loud columns first no less ({with_order})"
    )
    return f"On `{layer}` GPTQ is left with **{saved}** of the loss of rounding to nearest, {adds}."


def order(study: OrderStudy) -> str:
    """What the order saves, and where the loudest outlier lands."""
    rtn, plain, weight, _ = study.courses
    lost = [percent(course.loss / study.power) for course in study.courses]
    best = min(study.courses[1:], key=lambda one: one.loss)
    said = [
        f"Rounding to nearest loses **{lost[0]}** of the output's power; GPTQ with the columns as they come "
        f"**{lost[1]}**, with the loud ones first **{lost[2]}** (weight) and **{lost[3]}** (group): "
        f"{ratio(best.loss, rtn.loss)} of RTN's loss at best."
    ]
    if study.loud:
        came, comes = plain.loud_steps[0], weight.loud_steps[0]
        width = study.shape[1]
        said.append(
            f"Outlier channel **{study.loud[0]}** is column number {came} of {width} as they come, with {width - came} "
            f"behind it to lean on; sorted by diag(H) it is number **{comes}**, with {width - comes}."
        )
        late = sum(step > width // 2 for step in weight.loud_steps)
        if late:
            said.append(
                f"Of the {len(study.loud)} outlier channels, {late} stand in its second half all the same: diag(H) "
                "adds up all tokens, and these are loud on few."
            )
    if plain.unseen is not None and weight.unseen is not None and rtn.unseen is not None:
        said.append(
            f"On the text in the sidebar, which GPTQ has not seen, RTN loses {percent(rtn.unseen)}, "
            f"GPTQ {percent(plain.unseen)}, by order weight {percent(weight.unseen)}"
            + (": worse than RTN; calibrate on more tokens, or damp more." if weight.unseen > rtn.unseen else ".")
        )
    return " ".join(said)


def label(study: OrderStudy, method: str) -> str:
    """A final loss's name; what it is of RTN's where it is not RTN's own."""
    return "Loss of RTN" if method == METHODS[0] else f"{method}: {ratio(study.over_rtn(method), 1)} of RTN's"


def cost(costs: OrderCosts) -> str:
    """What g_idx takes in time, and whether that is beyond the noise of this machine."""
    shape = f"{costs.shape[0]} x {costs.shape[1]}"
    return f"This {shape} layer in int4: " + "; ".join(one_cost(row) for row in costs.rows) + "."


def one_cost(row: OrderCost) -> str:
    times = f"{row.weight.median_ms:.3g} ms with groups side by side, {row.group.median_ms:.3g} ms with g_idx"
    interval = f"ratio {row.ratio:.3g}, 95%: {row.ratio_lo:.3g} to {row.ratio_hi:.3g}"
    if row.unsteady:
        spread = f"{row.group.low_ms:.3g} to {row.group.high_ms:.3g} ms with g_idx"
        verdict = f"**the machine is busy with other work** (quartiles {spread}), so measure again"
    elif row.within_noise:
        verdict = f"**within the noise** ({interval})"
    else:
        verdict = f"g_idx makes it **{row.ratio:.2f} times** as slow" if row.ratio > 1 else "g_idx is not slower"
        verdict += f" ({interval})"
    return f"{row.tokens} token{'s' * (row.tokens > 1)}: {times}, {verdict}"


def cost_source(costs: OrderCosts) -> str:
    rounds = " and ".join(str(row.rounds) for row in costs.rows)
    return (
        f"Measured on this machine ({costs.device}) by the path `{costs.rows[0].path}`, {costs.dtype} inputs: medians "
        f"of {rounds} rounds, each way in every round; lines are quartiles; the ratio is taken round by round. "
        f"g_idx itself is {costs.g_idx_bytes:,} bytes. The path `dequantize` unpacks the whole weight at each call; "
        "a kernel that unpacks as it multiplies gathers the inputs instead."
    )


def _likely(found: OrderMap, bits: int) -> str:
    """The interval of a share that rests on some of the rows, and how many settings may be as good."""
    if found.rows == found.all_rows:
        return ""
    share, others = found.best(bits).share, found.as_good(bits)
    beside = f"; {len(others)} other settings may be as good" if others else ""
    return f" (95%: {100 * share.lo:.0f} to {100 * share.hi:.0f}%{beside})"


def drift(found: DriftStudy) -> str:
    """What the first correction mends, and what the codes then lose."""
    learned, read = found.learned, found.read
    return (
        f"Where the layers before are rounded to nearest, this layer's inputs are off by {percent(found.moved)} of "
        f"their power, which alone costs **{percent(learned[AS_IT_IS])}** of its output. Qronos moves the weight "
        f"first, half of the way that this text asks for (by {percent(found.corrected)} of its own power), so that "
        f"{percent(learned[CORRECTED])} is left, and then rounds as GPTQ does: **{percent(learned[BY_QRONOS])}** "
        f"against GPTQ's {percent(learned[BY_GPTQ])} on the text that it learned from, **{percent(read[BY_QRONOS])}** "
        f"against {percent(read[BY_GPTQ])} on another. GPTAQ, which looks forward alone, loses "
        f"{percent(learned[BY_GPTAQ])} and {percent(read[BY_GPTAQ])}. RTN, which learns from no text, loses "
        f"{percent(learned[ROUNDED])} and {percent(read[ROUNDED])}."
        + (
            " That GPTQ loses more than RTN here is no mistake: it holds on to W on the moved inputs, where rounding "
            "happened to make up for the move."
            if learned[BY_GPTQ] > learned[ROUNDED]
            else ""
        )
    )


def drift_courses(found: DriftStudy) -> str:
    """Where the three lines begin and end."""
    begun, ended = found.courses[BY_QRONOS][0], {name: losses[-1] for name, losses in found.courses.items()}
    return (
        f"Qronos' first correction takes the loss from {percent(found.learned[AS_IT_IS])} to {percent(begun)} before a "
        f"column is rounded; in the end RTN is left with {percent(ended[ROUNDED])}, GPTQ with "
        f"{percent(ended[BY_GPTQ])}, Qronos with {percent(ended[BY_QRONOS])}"
    )


def order_map(found: OrderMap) -> str:
    """The best of each number of bits."""
    parts = []
    for bits in sorted({cell.bits for cell in found.cells}):
        best = found.best(bits)
        likely = _likely(found, bits)
        parts.append(
            f"{bits} bits: {best.granularity}, order **{best.actorder or 'none'}**, damping {best.damp:g}, loss "
            f"{percent(best.loss)} of the output's power, **{ratio(best.loss, best.rtn_loss)}** of RTN's{likely}"
        )
    rows = (
        f"{found.rows} of {found.all_rows} rows, drawn in proportion to what RTN loses on them"
        if found.rows < found.all_rows
        else "all rows"
    )
    return f"{len(found.cells)} configurations in one sweep ({rows}). The least loss (★) - " + "; ".join(parts) + "."


def toy(found: Toy) -> str:
    rtn, one, two, best = found.points
    ahead = ("GPTQ, 1 first", "GPTQ, 2 first")[found.first]
    behind = ("GPTQ, 1 first", "GPTQ, 2 first")[1 - found.first]
    alike = " (a tie: both are equally loud)" if float(found.hessian[0, 0]) == float(found.hessian[1, 1]) else ""
    found_best = [point.way for point in (rtn, one, two) if point.point == best.point]
    who = " and ".join(found_best) if found_best else "none of the three"
    means = {way: ratio(mean, 1) for way, mean in found.mean_loss.items()}
    return (
        f"Losses: RTN **{rtn.loss:.3g}**, GPTQ with weight 1 first **{one.loss:.3g}**, with weight 2 first "
        f"**{two.loss:.3g}**, the best lattice point **{best.loss:.3g}** (found by {who}). diag(H) puts weight "
        f"{found.first + 1} first{alike}. Over {SAMPLES:,} random pairs of weights, the mean loss is "
        f"**{means[ahead]}** of RTN's in that order, {means[behind]} in the other, {means['best']} at the best points."
    )


def toy_steps(found: Toy) -> str:
    """The sums of both orders, with these numbers."""
    lines = []
    for first, way in enumerate(("GPTQ, 1 first", "GPTQ, 2 first")):
        point, second = found.point(way), 1 - first
        assert point.moved is not None
        w, q, moved = found.weight, point.point, point.moved
        over = f"{float(found.hessian[first, second]):.3g} / {float(found.hessian[second, second]):.3g}"
        lines.append(
            f"- Weight {first + 1} first: {w[first]:.3g} is rounded to {q[first]:g}; weight {second + 1} moves to "
            f"{w[second]:.3g} + ({w[first]:.3g} - {q[first]:g}) * {over} = **{moved[second]:.3g}** and is rounded to "
            f"**{q[second]:g}**."
        )
    return "\n".join(
        [
            "All points of an ellipse have the same loss. With one weight rounded, the other moves to where the loss "
            "is least.",
            *lines,
        ]
    )


def table(study: OrderStudy) -> pd.DataFrame:
    """One row a method."""
    return pd.DataFrame(
        [
            {
                "method": course.method,
                "loss, e H e^T": course.loss,
                "loss, % of the output's power": 100 * course.loss / study.power,
                "loss over RTN's": study.over_rtn(course.method),
                "error on the sidebar's text, % of the output's power": None
                if course.unseen is None
                else 100 * course.unseen,
                "error of the weights, % of their power": 100 * course.weight_error,
                "bits per weight": course.bits_per_weight,
                "calibration tokens": study.tokens,
            }
            for course in (study.course(method) for method in METHODS)
        ]
    )
