"""A product of schemes in one line: `w:int{3|4}/group{32|128}{|,gptq}` are eight.

Braces with a bar inside are choices; others, as in the regular expressions of skip=re:, stay as they are.
"""

from __future__ import annotations

import re
from itertools import product

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
MOST = 64


def expanded(line: str) -> list[str]:
    """Every scheme that the line stands for, in the order of its choices. Raises: ValueError for more than MOST."""
    parts = CHOICE.split(line)
    choices = [[part] if place % 2 == 0 else part.split("|") for place, part in enumerate(parts)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > MOST:
        raise ValueError(f"{line} stands for {count:,} schemes and {MOST} are measured at most; leave some choices out")
    return list(dict.fromkeys("".join(one) for one in product(*choices)))
