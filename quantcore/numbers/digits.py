"""Numbers as a sentence says them: so many digits, and no powers of ten.

digits(3584.2), digits(5.4e-05)        3,580 and 0.000054
"""

from __future__ import annotations

import math


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
