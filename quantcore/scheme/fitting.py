"""Which group fits a model: presets and defaults say "a group", and the model's own widths say of how many weights.

    grain = fitting_grain({"layers.0.q_proj": (576, 576), ...})      group64, because 576 / 128 is no whole number
    Plan.parse("W4A16", grain)                                       w:int4/group64

The groups are the widths that vLLM's mixed-precision kernels take (Marlin 32, 64, 128 and whole rows; Machete 64, 128
and whole rows); the largest that divides every quantized layer's inputs is the model's. Where none does, one scale a
row (`channel`) is, which those kernels take too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from quantcore.numbers.granularity import PerChannel, PerGroup
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

GROUPS = (128, 64, 32)
Shapes = Mapping[str, tuple[int, int]]


def fitting_grain(shapes: Shapes) -> PerGroup | PerChannel:
    """The largest of GROUPS that divides in_features of every Linear (out, in) that a scheme quantizes unless told
    otherwise; `channel` where none does."""
    widths = _widths(shapes)
    fits = [size for size in GROUPS if all(width % size == 0 for width in widths)]
    return PerGroup(max(fits)) if fits else PerChannel()


def why_grain(shapes: Shapes) -> str:
    """The model's grain in words, with its reason where it is not a group of 128."""
    grain = fitting_grain(shapes)
    if grain == PerGroup(GROUPS[0]):
        return f"groups of {GROUPS[0]}"
    if isinstance(grain, PerChannel):
        return f"one scale a row, because no group of {', '.join(map(str, GROUPS))} divides every layer's inputs"
    larger = GROUPS[GROUPS.index(grain.group_size) - 1]
    width = next(width for width in _widths(shapes) if width % larger)
    return f"groups of {grain.group_size}, because {width} / {larger} is no whole number"


def plan_for(value: Plan | Scheme | str, shapes: Shapes) -> Plan:
    """A plan from whatever says one; in a text, presets have the model's own grain."""
    return Plan.parse(value, fitting_grain(shapes)) if isinstance(value, str) else Plan.of(value)


def require_fits(plan: Plan, shapes: Shapes, head: str | None = None) -> None:
    """Raises: ValueError for the first layer that a tile of the plan does not divide, with a granularity that fits; and
    as `Plan.schemes_of`, which says what `head` is."""
    for name, scheme in plan.schemes_of(shapes, head).items():
        for spec in (scheme.weights, scheme.activations):
            if spec is None:
                continue
            try:
                spec.granularity.tile(shapes[name])
            except ValueError as error:
                out, width = shapes[name]
                way_out = _way_out(shapes) if spec is scheme.weights else "token"  # asked for here alone: of all layers
                raise ValueError(
                    f"{spec.granularity} does not divide {name}, {out} x {width} (output x input); try {way_out}"
                ) from error


def sorted_out(lines: Sequence[str], shapes: Shapes, head: str | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """Which of some schemes or plans the model can take: line -> its text in full, each text once; and of the others
    line -> the reason. Presets have the model's own grain."""
    able: dict[str, str] = {}
    refused: dict[str, str] = {}
    known = tuple(shapes.items())
    for line in lines:
        text, reason = _sorted(line, known, head)
        if reason:
            refused[line] = reason
        elif text not in able.values():
            able[line] = text
    return able, refused


@lru_cache(maxsize=256)
def _sorted(line: str, known: tuple[tuple[str, tuple[int, int]], ...], head: str | None) -> tuple[str, str]:
    """The text in full and no reason, or the other way round."""
    shapes = dict(known)
    try:
        plan = plan_for(line, shapes)
        require_fits(plan, shapes, head)
    except ValueError as error:
        return "", str(error)
    return str(plan), ""


def _way_out(shapes: Shapes) -> str:
    grain = fitting_grain(shapes)
    return "channel" if isinstance(grain, PerChannel) else f"{grain}, which divides every layer, or channel"


def _widths(shapes: Shapes) -> list[int]:
    """in_features of the Linears that a scheme quantizes by default, each once."""
    usual = Scheme()
    return list(dict.fromkeys(shape[1] for name, shape in shapes.items() if not usual.skips(name)))
