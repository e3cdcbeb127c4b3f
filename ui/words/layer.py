"""What the Layer lab says in words and rows: the studies of A and B as a table, and the sentences that read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from quantcore.numbers.digits import digits
from quantcore.numbers.distance import Giant
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import LayerStudy

Sides = Mapping[str, LayerStudy]
Row = tuple[str, str]

NAMED = 3


def numbers(study: LayerStudy) -> dict[Row, float]:
    """The study's numbers under (name, unit)."""
    return {
        ("SQNR of the output, median token", "dB"): study.token_sqnr_db,
        ("SQNR of the whole output", "dB"): study.output.sqnr_db,
        ("SQNR of the weight", "dB"): study.weight.sqnr_db,
        ("SQNR of the input", "dB"): study.input.sqnr_db,
        ("output error, median token", "%"): 100 * float(study.token_error.median()),
        ("output error, worst token", "%"): 100 * float(study.token_error.max()),
        ("cosine of the output, mean token", "1: equal"): study.token_cosine,
        ("mean squared error of the weight", "weight^2"): study.weight.mse,
        ("largest error of a weight", "weight"): study.weight.max_error,
        ("largest error of an input", "input"): study.input.max_error,
        ("bits per weight, scales counted", "bits"): study.bits_per_weight,
        ("this layer in a checkpoint", "bytes"): study.checkpoint_bytes,
        ("its weight held in memory here", "bytes"): study.held_bytes,
    }


def table(sides: Sides) -> pd.DataFrame:
    """One row a number: name, unit, A, B and, where both are there, B - A."""
    columns = {side: numbers(study) for side, study in sides.items()}
    frame = pd.DataFrame([{"number": name, "unit": unit} for name, unit in next(iter(columns.values()))])
    for side, values in columns.items():
        frame[side] = list(values.values())
    if len(columns) == 2:
        pairs = zip(*(values.values() for values in columns.values()), strict=True)
        frame["B - A"] = [0.0 if a == b else b - a for a, b in pairs]
    return frame


def written(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for the eye: few digits, an SQNR without error is `exact`; the index is the number's name."""
    shown = frame.copy()
    for column in frame.columns.drop(["number", "unit"]):
        signed = column == "B - A"
        shown[column] = [_digits(value, unit, signed) for value, unit in zip(frame[column], frame["unit"], strict=True)]
    return shown.set_index("number")


def _digits(value: float, unit: str, signed: bool) -> str:
    if not math.isfinite(value):
        return "" if signed else "exact"
    if value == 0:
        return "0"
    sign = "+" if signed else ""
    if unit in ("bytes", "dB"):
        return f"{value:{sign}{',.0f' if unit == 'bytes' else 'z.2f'}}"
    return digits(value, 4 if unit == "bits" else 3, sign)


def headline(sides: Sides) -> str:
    """Who keeps more of the median token's output, and for how many bits; the whole output's SQNR beside it."""
    kept = {side: decibels(study.token_sqnr_db) for side, study in sides.items()}
    whole = {side: decibels(study.output.sqnr_db) for side, study in sides.items()}
    bits = {side: f"{study.bits_per_weight:.3f}" for side, study in sides.items()}
    if len(sides) == 1:
        (side,) = sides
        of_it = f"**{kept[side]}** of the median token's output (the whole: {whole[side]})"
        return f"{side} keeps {of_it}, for {bits[side]} bits a weight."
    one, other = ("A", "B") if sides["A"].token_sqnr_db >= sides["B"].token_sqnr_db else ("B", "A")
    beside = f"(the whole output: {whole[one]} and {whole[other]}), for {bits[one]} and {bits[other]} bits a weight."
    if kept[one] == kept[other]:
        return f"{one} and {other} keep the same of the median token's output, **{kept[one]}** {beside}"
    more = f"**{one} keeps more than {other}** of the median token's output"
    return f"{more}: **{kept[one]}** against **{kept[other]}** {beside}"


def sentences(sides: Sides, schemes: Mapping[str, Scheme], layer: str, texts: Sequence[str]) -> list[str]:
    """What to see in the pictures, with these numbers."""
    found = next(iter(sides.values())).giant
    said = [giant(found, texts)] if found.rules else []
    said += [_blame(side, study) for side, study in sides.items()]
    said += [_frozen(side, study) for side, study in sides.items() if study.static_range]
    skipping = [side for side, scheme in schemes.items() if scheme.skips(layer) and str(scheme) != "float"]
    if skipping:
        who = " and ".join(skipping)
        said.append(f"In a whole model {who} would leave `{layer}` float (skip=); here it is quantized all the same.")
    return said


def giant(found: Giant, texts: Sequence[str]) -> str:
    """One token rules what is said of the whole."""
    token = texts[found.token].replace("`", "'")
    return (
        f"**One token rules**: token {found.token}, `{token}`, alone holds {shown_share(found.share)} of the output's "
        "power, so the SQNR of the whole output is that token's; the median token's is everybody else's."
    )


def shown_share(share: float) -> str:
    """A share as a percentage that never rounds up to all of it."""
    return f"{100 * share:.0f}%" if share < 0.99 else f"{math.floor(1e4 * share) / 100:.2f}%"


def worst_channels(sides: Sides) -> str:
    """The output channels with the largest errors, by name."""
    named = []
    for side, study in sides.items():
        worst = study.channel_error.topk(min(NAMED, len(study.channel_error)))
        pairs = zip(worst.indices.tolist(), worst.values.tolist(), strict=True)
        named.append(
            f"{side}: " + (", ".join(f"{channel} ({digits(error)})" for channel, error in pairs if error) or "none")
        )
    return "Worst output channels and their RMS errors - " + "; ".join(named)


def decibels(value: float) -> str:
    return f"{value:z.1f} dB" if math.isfinite(value) else "infinite (no error)"


def _blame(side: str, study: LayerStudy) -> str:
    """Which part costs the median token's output; noise powers nearly add up, decibels do not."""
    weights, activations = study.weights_token_error**2, study.activations_token_error**2
    together = _percent(float(study.token_error.median()) ** 2)
    if weights == activations == 0:
        return f"{side} leaves the layer without error."
    if not (weights and activations):
        part = "weights" if weights else "activations"
        return f"In {side} only the **{part}** err, by {together} of the power of the median token's output."
    louder = "weights" if weights >= activations else "activations"
    return (
        f"In {side} the **{louder}** cost most: alone, the weights' error is {_percent(weights)} of the power of the "
        f"median token's output and the activations' {_percent(activations)}; together they make {together}."
    )


def _frozen(side: str, study: LayerStudy) -> str:
    assert study.static_range is not None
    assert study.outside is not None
    (lo, hi), values = study.static_range, study.tokens * study.shape[1]
    beyond = round(study.outside * values)
    count = "none" if not beyond else f"{beyond:,} ({_percent(study.outside)})"
    one = beyond == 1
    return (
        f"{side}'s input range, {digits(lo)} to {digits(hi)}, was recorded on the calibration text and frozen; of this "
        f"text's {values:,} input values {count} lie{'s' * one} beyond it and {'is' if one else 'are'} clipped."
    )


def _percent(share: float) -> str:
    return f"{digits(100 * share)}%"
