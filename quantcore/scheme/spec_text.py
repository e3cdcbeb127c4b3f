"""One tensor's spec inside of a scheme's text: `int4/group128/asym/p99.9`, and behind it when its range is known."""

from __future__ import annotations

import re
from dataclasses import replace

from quantcore.numbers.formats import format_named
from quantcore.numbers.granularity import parse_granularity
from quantcore.numbers.scales import FLOAT
from quantcore.numbers.spec import MinMax, QuantSpec, parse_observer, scales_named


def when_of(spec: QuantSpec) -> str:
    """When the range of a tensor that comes at run time is known: static, dynamic, or local."""
    return "local" if spec.local else "static" if spec.static else "dynamic"


def observer_suffix(spec: QuantSpec) -> str:
    """What of a spec stands behind the rest: its observer where that is not min-max, its jitter where it has one."""
    observer = "" if spec.observer == MinMax() else f"/{spec.observer}"
    return observer + (f"/jitter{spec.jitter}" if spec.jitter else "")


def parse_spec(text: str, activation: bool) -> QuantSpec:
    """The spec of weights, or of what comes at run time (`activation`). Raises: ValueError with the way out."""
    words = text.split("/")
    if len(words) < 2:
        raise ValueError(f"{text!r} lacks its granularity; write format/granularity, as in int4/group128")
    spec = QuantSpec(format_named(words[0]), parse_granularity(words[1]))
    symmetric, when, observer, jitter, scales = True, None, None, 0, FLOAT
    for word in words[2:]:
        if word == "asym":
            symmetric = False
        elif (found := scales_named(word)) and scales == FLOAT:
            scales = found
        elif word in ("static", "dynamic", "local") and activation and when is None:
            when = word
        elif (moved := re.fullmatch(r"jitter([1-9]\d{0,5})", word)) and not jitter:
            jitter = int(moved[1])
        elif observer is None:
            observer = parse_observer(word)
        else:
            raise ValueError(f"{word!r} is one observer too many in {text!r}; name one")
    if activation and when is None:
        raise ValueError(f"activations {text!r} must say when their range is known; add /dynamic or /static")
    if (when == "local") != (when is not None and when != "static" and scales.has_global):
        raise ValueError(
            f"{text!r}: local is the word of dynamic scales under a global one, which e4m3 has; write "
            f"{'local' if scales.has_global else 'dynamic'}"
        )
    return replace(
        spec,
        symmetric=symmetric,
        dynamic=when in ("dynamic", "local"),
        observer=observer or MinMax(),
        jitter=jitter,
        scales=scales,
    )
