"""The sentences of the page Static or dynamic: what its pictures show, with the live numbers. Markdown out."""

from __future__ import annotations

from collections.abc import Sequence

from quantcore.numbers.digits import digits
from quantcore.studies.dynamic_cost import DynamicCost
from quantcore.studies.ranges import Clip, RangeRow, RangeStudy, Trail

BUSY = 2.0  # median over fastest round


def headline(study: RangeStudy) -> str:
    """The best that a frozen range keeps, beside a range for each token."""
    best, token = max(study.static, key=lambda row: row.token_sqnr_db), study.others.token
    return (
        f"Of the median token's output the best frozen range, {best.name}, keeps **{best.token_sqnr_db:z.1f} dB**; a "
        f"range for each token, found at run time, keeps **{token.token_sqnr_db:z.1f} dB**."
    )


def finding(study: RangeStudy, focus: RangeRow, trail: Trail) -> str:
    """What was frozen, and how much of it the tokens need."""
    reach, giant = float(study.reach.median()), float(study.reach.max())
    step, needed = "scale", ""
    if not trail.spec.fmt.is_float and focus.scale:
        step, needed = "step", f", which is {digits(reach / focus.scale)} steps"
    return (
        f"Recorded over {study.tokens:,} tokens, **{focus.name}** freezes **{_end(focus, focus.lo)} to "
        f"{_end(focus, focus.hi)}**, with a {step} of **{digits(focus.scale)}**. Half of the test text's tokens never "
        f"reach beyond **{digits(reach)}**{needed}; one reaches **{digits(giant)}**."
    )


def _end(row: RangeRow, value: float | None) -> str:
    """An end of a range with the digits that it has: percentile and mse read a histogram, so two; min and max more."""
    return digits(value, 2 if row.name.startswith(("percentile", "least")) else 4)


def frozen(study: RangeStudy) -> str:
    return "frozen after the last step: " + ", ".join(
        f"{r.name} {_end(r, r.lo)} to {_end(r, r.hi)}" for r in study.static
    )


def touched(study: RangeStudy, focus: RangeRow) -> str:
    return (
        f"{focus.name} clips a value of {focus.touched:.1%} of the tokens; half of all tokens stay below "
        f"{digits(float(study.reach.median()))}, one reaches {digits(float(study.reach.max()))}"
    )


def worst_clip(clips: Sequence[Clip]) -> str:
    worst = max(clips, key=lambda clip: clip.touched)
    return f"most tokens are clipped by {worst.name} on {worst.text}: {worst.touched:.1%}"


def errors(study: RangeStudy) -> str:
    rows = (f"{row.way} {row.name} {row.token_sqnr_db:z.1f} dB" for row in study.rows)
    return f"SQNR of the median token's output: {', '.join(rows)}"


def cost(measured: DynamicCost) -> str:
    """The extra time of dynamic, for many tokens at once and for one."""
    one, many = measured.rows[0], measured.rows[-1]
    return (
        f"For **{many.tokens} tokens** the codes take **{many.static_ms:.2f} ms** with a frozen range, "
        f"**{many.tensor_extra_ms:+.2f} ms** with one found per tensor, **{many.token_extra_ms:+.2f} ms** per token; "
        f"the layer's float product takes {many.product_ms:.2f} ms. For **one token**: {one.static_ms:.3f} ms with a "
        f"frozen range, {one.tensor_extra_ms:+.3f} ms per tensor, {one.token_extra_ms:+.3f} ms per token; the product "
        f"{one.product_ms:.3f} ms."
    )


def cost_source(measured: DynamicCost) -> str:
    """Where and how the time was measured, and how far to trust it."""
    rounds = sorted(row.rounds for row in measured.rows)
    unrest = max(row.unrest for row in measured.rows)
    count = f"{rounds[0]}" if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
    return (
        f"Measured here: {measured.device}, weight {list(measured.shape)} {measured.dtype}, the fastest of {count} "
        f"rounds; the median round took up to {unrest:.1f} times as long"
        + (" (the machine is busy)." if unrest > BUSY else ".")
        + " The operations run one after another, as this engine does; a kernel that fuses them pays less."
    )
