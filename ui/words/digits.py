"""A scheme's losses as a sentence says them: as many digits as they bear."""

from __future__ import annotations

from quantcore.numbers.digits import digits
from quantcore.scheme.plan import Plan


def is_rough(text: str) -> bool:
    """Whether a scheme's figures carry two digits: where inputs are rounded, another order of sums moves the third."""
    return any(one.activations is not None for one in Plan.parse(text).schemes)


def shown_kl(text: str, kl: float) -> str:
    """A mean KL of a scheme, with the digits that say something."""
    return digits(kl, 2) if is_rough(text) or kl < 0.01 else f"{kl:.4f}"


def shown_tail(text: str, kl: float) -> str:
    """A KL of one token among a scheme's largest: as many digits as its mean bears."""
    return digits(kl, 2 if is_rough(text) else 3)
