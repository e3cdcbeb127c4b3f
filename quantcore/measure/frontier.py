"""Which of several candidates no other beats: the Pareto frontier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def unbeaten(items: Iterable[T], figures: Callable[[T], tuple[float, ...]]) -> list[T]:
    """Those of which no other is as small in every figure and smaller in one, in their order. Equal ones all stay."""
    known = [(one, figures(one)) for one in items]

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(its != mine and all(a <= b for a, b in zip(its, mine, strict=True)) for _, its in known)

    return [one for one, mine in known if not beaten(mine)]
