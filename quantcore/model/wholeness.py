"""How much of a model can be quantized at all: of the numbers in the matrices that a scheme is about.

    wholeness_of(model).share          0.91: the code of a FalconMamba reads some weights itself
    partly(model)                      a sentence that says so; None where at least WHOLE can

A scheme is about a model's matrices but for embeddings, the head, routers, convolutions, towers for pictures and sound
with what leads from them to the text, and what no text reaches. Nothing is run but the probe of `linears`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from quantcore.model.layer_names import short_names
from quantcore.model.linears import NOT_REACHED, ROUTER, head_of, left_float, linear_shapes, why_float
from quantcore.model.sentences import quoted

WHOLE = 0.95
NAMED = 3
LEAST = 0.5  # less is refused: what is called quantized would be the float model
BESIDE = re.compile(r"vision|visual|multi_modal|projector|audio|router|\bgate\.weight|embed|wpe|wte|position|conv")


@dataclass(frozen=True)
class Wholeness:
    """able: numbers in the Linears that can be quantized, the head aside. left: of each matrix that a scheme is about
    and that must stay float, how many it holds and why."""

    able: int
    left: dict[str, tuple[int, str]]

    @property
    def share(self) -> float:
        return self.able / max(1, self.able + sum(numbers for numbers, _ in self.left.values()))


def wholeness_of(model: nn.Module) -> Wholeness:
    head, why = head_of(model), why_float(model)
    able = sum(out * width for name, (out, width) in linear_shapes(model).items() if name != head)
    left = {
        name: (matrix.numel(), why[name])
        for name, matrix in left_float(model).items()
        if not _is_beside(model, head, name, why[name])
    }
    return Wholeness(able, left)


def partly(model: nn.Module) -> str | None:
    """That a model cannot be quantized whole, with the share, what stays float, and the reason of the largest; None
    also where nothing can be, which `linears.require_plan` refuses."""
    found = wholeness_of(model)
    if found.share >= WHOLE or not found.able:
        return None
    largest = max(found.left, key=lambda name: found.left[name][0])
    ends = short_names(name.removesuffix(".weight") for name in found.left)
    more = f" and {len(ends) - NAMED} more" if len(ends) > NAMED else ""
    return (
        f"{found.share:.0%} of this {type(model).__name__} can be quantized: "
        f"{', '.join(quoted(one) for one in ends[:NAMED])}{more} must stay float: {found.left[largest][1]}"
    )


def require_much(model: Any) -> None:
    """Raises: ValueError where less than LEAST of a model can be quantized, but for none at all (`require_plan`)."""
    found = wholeness_of(model)
    if found.able and hasattr(model, "config") and found.share < LEAST:
        raise ValueError(f"only {partly(model)}; take another model")


def _is_beside(model: nn.Module, head: str | None, name: str, why: str) -> bool:
    """Whether a matrix is none that a scheme is about."""
    inside = name.rpartition(".")[0]
    convolves = isinstance(model.get_submodule(inside), nn.modules.conv._ConvNd)
    return inside == head or BESIDE.search(name) is not None or why in (ROUTER, NOT_REACHED) or convolves
