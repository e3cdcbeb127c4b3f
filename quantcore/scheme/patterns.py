"""Which layers a piece of a scheme's text means: a run of whole parts of a dotted name, or a regular expression.

    down_proj, layers.0, 0.mlp.up_proj     the name, or neighbouring parts of it, whole ones
    re:.*mlp.gate$                         what compressed-tensors' `match_name` means by it: a regular expression that
                                           fits from the name's first sign on, and to its end where it says $; so
                                           re:.*mlp.gate fits mlp.gate_proj, too

In an expression the signs that a scheme's text needs itself are written as in a URL: `,` as %2C, `=` as %3D, `@` as
%40, `%` as %25, a blank as %20. One that could take long is refused, since a link may bring it: names are short, so a
few repeats are quick, and repeats within repeats are not.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

REGEX = "re:"
LONGEST, REPEATS, CHOICES = 1000, 4, 12
TAKEN = {sign: f"%{ord(sign):02X}" for sign in "%,=@ \t\n"}


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern means the layer of that name."""
    if pattern.startswith(REGEX):
        return _compiled(pattern).match(name) is not None
    return f".{pattern}." in f".{name}."


def is_pattern(text: str) -> bool:
    """Whether a text is a run of a dotted name's parts, or begins as an expression does; `require_quick` tells of that
    whether it is a good one."""
    return text.startswith(REGEX) or re.fullmatch(r"[\w.]+", text) is not None


def written(expression: str) -> str:
    """A regular expression as a pattern: re:^mlp{1,2}$ as re:^mlp{1%2C2}$."""
    return REGEX + "".join(TAKEN.get(sign, sign) for sign in expression)


def expression(pattern: str) -> str:
    """The regular expression that a pattern beginning with re: says."""
    return unquote(pattern.removeprefix(REGEX))


def require_quick(pattern: str) -> None:
    """Raises: ValueError for an expression that is none, or that could take long; other patterns pass."""
    if not pattern.startswith(REGEX):
        return
    said = expression(pattern)
    try:
        if not said or len(said) > LONGEST:
            raise ValueError(f"has {len(said)} signs, of 1 to {LONGEST}")
        if re.search(r"\\\d|\(\?P?=", said):
            raise ValueError("looks ahead for what must be, or refers to a group")
        if not all(map(_is_quick, _parts(re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", said)))):
            raise ValueError(f"repeats groups, or has more than {REPEATS} repeats or {CHOICES} choices")
        _compiled(pattern)
    except (ValueError, re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"cannot take the expression {pattern[:80]!r}: it {_of(error)}; write a plainer one"
        ) from error


def _parts(said: str) -> list[str]:
    """What an expression shuts out at its beginning, one by one, and the rest: each is tried by itself."""
    parts = []
    while said.startswith("(?!") and (end := _closing(said)):
        parts += _parts(said[3:end])
        said = said[end + 1 :]
    if said.startswith("(?:") and _closing(said) == len(said) - 1:
        return [*parts, *_parts(said[3:-1])]
    return [*parts, said]


def _closing(said: str) -> int:
    """Where the parenthesis ends that a text begins with; 0: nowhere."""
    depth = 0
    for place, sign in enumerate(said):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place
    return 0


def _is_quick(said: str) -> bool:
    repeats, choices = len(re.findall(r"[*+{]", said)), len(re.findall(r"\||(?<![(*+}])\?", said))
    return not re.search(r"\)[*+{]", said) and repeats <= REPEATS and choices <= CHOICES


def _of(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"is no regular expression ({str(error)[:60]})"


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(expression(pattern))
