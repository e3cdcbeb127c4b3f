"""What is said of rounding luck beside a difference."""

from __future__ import annotations

from quantcore.measure.told_apart import Apart
from quantcore.numbers.digits import digits


def luck_alone(apart: Apart) -> str:
    """The end of a bracket: how wide rounding luck alone would make the interval; nothing where it was not measured."""
    return "" if apart.luck is None else f"; luck alone ± {digits(apart.luck, 2)}"
