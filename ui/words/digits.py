"""Numbers as a sentence says them: so many digits, and no powers of ten."""

from __future__ import annotations

import math

from quantcore.scheme.plan import Plan


def digits(value: float | None, count: int = 3, sign: str = "") -> str:
    """`value` with `count` significant digits: 3,580 and 0.000054 where `.3g` writes 3.58e+03 and 5.4e-05; beyond a
    millionth and a thousand million it stays a power of ten. `none` for None. sign: `+` writes the plus too."""
    if value is None:
        return "none"
    text = f"{value:{sign}.{count}g}"
    if "e" not in text or not math.isfinite(value) or not 1e-6 <= abs(value) < 1e9:
        return text
    rounded = float(text)
    places = max(0, count - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:{sign},.{places}f}"


def is_rough(text: str) -> bool:
    """Whether a scheme's figures carry two digits: where inputs are rounded, another order of sums moves the third."""
    return any(one.activations is not None for one in Plan.parse(text).schemes)


def shown_kl(text: str, kl: float) -> str:
    """A mean KL of a scheme, with the digits that say something."""
    return f"{kl:.2g}" if is_rough(text) or kl < 0.01 else f"{kl:.4f}"


def shown_tail(text: str, kl: float) -> str:
    """A KL of one token among a scheme's largest: as many digits as its mean bears."""
    return digits(kl, 2 if is_rough(text) else 3)
