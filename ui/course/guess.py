"""What can be guessed before a picture shows: a number, one option, one option of several rows, an order.

    guess = Number("dB", 0, 30, 0.5, near=2)
    guess.read("12")          "12": the guess as a link writes it; None for what is no guess
    guess.words("12")         "12 dB"
    guess.verdict("12", "17.4")                     "You said 12 dB: 5.4 dB too low."
    guess.tally(["12", "17", "3"], "17.4")          how often each answer was given, and which bar is the true one

A guess is a short text everywhere: in the link, in the class's room, in the page's memory; the truth is one too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

LONGEST = 40  # characters of any guess
BINS = 20


@dataclass(frozen=True)
class Tally:
    """A bar an answer: its name, how many gave it; `true` are the bars that hold the truth."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    true: tuple[int, ...]


@dataclass(frozen=True)
class Number:
    """A number from lo to hi, set on an axis. `near`: how far off still counts as right.

    name     of the axis            ticks            (place, text), else the axis finds its own
    counts   a histogram behind the axis, with one more edge than counts"""

    unit: str
    lo: float
    hi: float
    step: float
    near: float
    name: str = ""
    ticks: tuple[tuple[float, str], ...] = ()
    counts: tuple[float, ...] = ()
    edges: tuple[float, ...] = field(default=(), repr=False)

    def read(self, text: str) -> str | None:
        try:
            value = float(text[:LONGEST])
        except ValueError:
            return None
        if not (math.isfinite(value) and self.lo <= value <= self.hi):
            return None
        return f"{round(round((value - self.lo) / self.step) * self.step + self.lo, 6):.10g}"

    @property
    def takes(self) -> str:
        """What a link may say, in words."""
        return f"a number from {self.words(str(self.lo))} to {self.words(str(self.hi))}"

    def words(self, text: str) -> str:
        value = float(text)
        digits = len(f"{self.step:.10g}".partition(".")[2])
        space = "" if self.unit == "%" or not self.unit else " "
        return f"{value:.{digits}f}{space}{self.unit}"

    def verdict(self, text: str, truth: str) -> str:
        off = float(text) - float(truth)
        if self.right(text, truth):
            return f"You said {self.words(text)}: right."
        apart = self.words(f"{abs(off):.10g}")
        if self.unit == "%":
            apart = f"{apart.removesuffix('%')} points"
        return f"You said {self.words(text)}: {apart} too {'high' if off > 0 else 'low'}."

    def right(self, text: str, truth: str) -> bool:
        return abs(float(text) - float(truth)) <= self.near + 1e-9

    def tally(self, texts: Sequence[str], truth: str) -> Tally:
        steps = round((self.hi - self.lo) / self.step) + 1
        width = -(-steps // BINS)  # whole steps a bar
        bars = -(-steps // width)

        def bar(text: str) -> int:
            place = round((float(text) - self.lo) / self.step) // width
            return min(max(place, 0), bars - 1)

        starts = [f"{self.lo + place * width * self.step:.10g}" for place in range(bars)]
        labels = tuple(self.words(one) for one in starts)
        places = [bar(text) for text in texts]
        return Tally(labels, tuple(places.count(place) for place in range(bars)), (bar(truth),))


@dataclass(frozen=True)
class Rows:
    """One option in each of a few rows: row name -> options. The text is the options' numbers from 1 on, `2,1`."""

    rows: tuple[tuple[str, tuple[str, ...]], ...]

    def read(self, text: str) -> str | None:
        parts = text[:LONGEST].split(",")
        if len(parts) != len(self.rows):
            return None
        for part, (_, options) in zip(parts, self.rows, strict=True):
            if not (part.isascii() and part.isdigit() and 1 <= int(part) <= len(options)):
                return None
        return ",".join(str(int(part)) for part in parts)

    @property
    def takes(self) -> str:
        """What a link may say, in words."""
        counts = [len(options) for _, options in self.rows]
        return ", then ".join(f"a number from 1 to {count}" for count in counts)

    def chosen(self, text: str) -> list[str]:
        return [options[int(part) - 1] for part, (_, options) in zip(text.split(","), self.rows, strict=True)]

    def of(self, *chosen: str) -> str:
        """The text of these options, one a row."""
        return ",".join(str(options.index(one) + 1) for one, (_, options) in zip(chosen, self.rows, strict=True))

    def words(self, text: str) -> str:
        found = self.chosen(text)
        if len(self.rows) == 1:
            return found[0]
        return ", ".join(f"{name}: {one}" for (name, _), one in zip(self.rows, found, strict=True))

    def verdict(self, text: str, truth: str) -> str:
        if len(self.rows) == 1 and text == truth:
            return f"You said {self.words(text)}: right."
        if text == truth:
            return "Both right." if len(self.rows) == 2 else f"All {len(self.rows)} right."
        if len(self.rows) == 1:
            return f"You said {self.words(text)}; it is {self.words(truth)}."
        pairs = list(zip(self.rows, self.chosen(text), self.chosen(truth), strict=True))
        wrong = [f"{name}: {one}" for (name, _), one, other in pairs if one != other]
        return f"{len(pairs) - len(wrong)} of {len(pairs)} right. Not so: {'; '.join(wrong)}."

    def right(self, text: str, truth: str) -> bool:
        return text == truth

    def tally(self, texts: Sequence[str], truth: str) -> Tally:
        chosen = [self.chosen(text) for text in texts]
        labels: list[str] = []
        counts: list[int] = []
        true: list[int] = []
        for row, ((name, options), right) in enumerate(zip(self.rows, self.chosen(truth), strict=True)):
            for option in options:
                if option == right:
                    true.append(len(labels))
                labels.append(option if len(self.rows) == 1 else f"{name}: {option}")
                counts.append(sum(one[row] == option for one in chosen))
        return Tally(tuple(labels), tuple(counts), tuple(true))


def Pick(*options: str) -> Rows:  # noqa: N802 - reads as the kinds beside it
    """One of a few options."""
    return Rows((("", options),))


@dataclass(frozen=True)
class Order:
    """An order of a few cards, each with a small curve. The text is the cards' numbers from 1 on, `3,1,2`.

    An order is judged by its pairs: how many of all pairs of cards stand as in the true order."""

    cards: tuple[str, ...]
    curves: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def read(self, text: str) -> str | None:
        parts = text[:LONGEST].split(",")
        if not all(part.isascii() and part.isdigit() for part in parts):
            return None
        places = [int(part) for part in parts]
        if sorted(places) != list(range(1, len(self.cards) + 1)):
            return None
        return ",".join(map(str, places))

    @property
    def takes(self) -> str:
        """What a link may say, in words."""
        return f"the numbers 1 to {len(self.cards)}, each once, with commas between them"

    def places(self, text: str) -> list[int]:
        """Which card stands first, second ..., counted from 0."""
        return [int(part) - 1 for part in text.split(",")]

    def of(self, places: Sequence[int]) -> str:
        return ",".join(str(place + 1) for place in places)

    def words(self, text: str) -> str:
        return ", ".join(self.cards[place] for place in self.places(text))

    def pairs(self, text: str, truth: str) -> int:
        at = {card: place for place, card in enumerate(self.places(truth))}
        return sum(at[one] < at[other] for one, other in combinations(self.places(text), 2))

    @property
    def most(self) -> int:
        return math.comb(len(self.cards), 2)

    def right(self, text: str, truth: str) -> bool:
        return self.pairs(text, truth) == self.most

    def verdict(self, text: str, truth: str) -> str:
        return f"{self.pairs(text, truth)} of {self.most} pairs stand as diag(H) puts them."

    def tally(self, texts: Sequence[str], truth: str) -> Tally:
        found = [self.pairs(text, truth) for text in texts]
        width = -(-(self.most + 1) // BINS)
        starts = range(0, self.most + 1, width)
        counts = tuple(sum(start <= one < start + width for one in found) for start in starts)
        return Tally(tuple(f"{start} pairs" for start in starts), counts, (len(starts) - 1,))


Guess = Number | Rows | Order
