"""A scene of the course: a question about the loaded model, a guess, the picture that answers it, and why.

    SCENE = Scene("cost", "What a scale costs", "How many bits ...?", find, reveal)

    found = find(lab)              the specimen: which layer, text or row of this model, and by which measured figure it
                                   was picked; or `Missing`, the sentence why this model has none
    reveal(lab, found)             the truth, the picture and the sentence that says why, all computed

Both ask the lab alone. What takes long is said so by `slow`: then it is a job, which begins when the scene opens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.pipeline.calibration import Progress
from ui.course.guess import Guess

Draw = Callable[[str], None]  # draws a picture under a key


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture, its finding in one sentence, and its height in pixels."""

    picture: go.Figure | Draw
    alt: str
    height: int = 400


@dataclass(frozen=True, eq=False)
class Specimen:
    """said     where it was found, by which figure; with the numbers that one may know before guessing
    guess       what is asked for
    before      pictures that may be seen before
    of          what the reveal needs to know; the scene's own affair"""

    said: str
    guess: Guess
    before: tuple[Shown, ...] = ()
    of: Any = None


@dataclass(frozen=True)
class Missing:
    """This model has no specimen; the sentence says by which figure."""

    said: str


@dataclass(frozen=True, eq=False)
class Reveal:
    """truth     as a guess's text
    answer       the truth in a few words
    why          a sentence or two, from the numbers
    twist        what the rule of thumb does not say; "" where there is none
    mark         the axis of the first picture on which guesses are drawn: "x", "y" or none
    more         the page on which all of this can be moved, and the state it opens in; None where there is none"""

    truth: str
    answer: str
    why: str
    pictures: tuple[Shown, ...]
    twist: str = ""
    mark: str = ""
    more: tuple[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Scene:
    """slow      what a job is called that finds the reveal (`slow_find`: the specimen too); "" where it is quick
    measure      the part of a job that tells how far it is; the reveal then finds what it measured kept
    of_guess     what only the engine can say of a guess, such as the loss of an order made by hand"""

    key: str
    title: str
    ask: str
    find: Callable[[Lab], Specimen | Missing]
    reveal: Callable[[Lab, Specimen], Reveal]
    slow: str = ""
    measure: Callable[[Lab, Specimen, Progress], None] | None = None
    slow_find: bool = False
    of_guess: Callable[[Lab, str], str] | None = field(default=None)


@cache
def scenes() -> tuple[Scene, ...]:
    """All of them, in the order of their files' names."""
    files = sorted((Path(__file__).parent / "scenes").glob("s[0-9][0-9]_*.py"))
    found = tuple(import_module(f"ui.course.scenes.{file.stem}").SCENE for file in files)
    assert len({one.key for one in found}) == len(found)
    return found
