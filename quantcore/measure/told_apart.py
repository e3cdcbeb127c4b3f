"""Which schemes differ, beyond the chance of the text, of rounding luck and of many comparisons: the one judge of all
pages and verbs.

    found = told_apart(duel, spreads)[("w:int4/group64", "W8A8")]
    found.verdict, found.share, found.luck

A difference is beyond chance where its p, of text and luck together (`luck.both`), is below 0.05 after Holm's
correction over all pairs that are asked at once. It is real only where luck was weighed. Where it was not measured the
text alone decides, and the same scheme with other rounding luck may pass for a different one; so the verdict says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from quantcore.measure.luck import Spread, both, luck_bar, luck_p
from quantcore.measure.scores import Comparison
from quantcore.measure.statistics import LEVEL, Interval, holm
from quantcore.numbers.digits import digits

Pair = tuple[str, str]
REAL = "beyond the chance of the text and of rounding luck"
BY_TEXT = "beyond the text's interval; rounding luck not measured"
CHANCE = "within chance"


@dataclass(frozen=True)
class Apart:
    """Mean KL of one scheme minus another's, nats.

    difference   with the interval over texts, of this pair alone
    share        the difference over the other's KL: how large it is. None where that is 0
    luck         half the width of the interval that rounding luck alone would have; None: not measured
    p            of text, luck and all pairs together"""

    difference: Interval
    share: float | None
    luck: float | None
    p: float

    @property
    def beyond(self) -> bool:
        """Beyond the chance of all that was weighed: of the text, and of luck where it was measured."""
        return self.p < 1 - LEVEL

    @property
    def real(self) -> bool:
        return self.beyond and self.luck is not None

    @property
    def verdict(self) -> str:
        """REAL, BY_TEXT or CHANCE: the words that all pages and files use."""
        return CHANCE if not self.beyond else REAL if self.real else BY_TEXT


def share_words(share: float, count: int = 2) -> str:
    """A difference as a share of what it is held against: `-46%`, and from twice as much on `12 times`; as many digits
    more as tell 99.7% from all of it."""
    if share >= 1:
        return f"{digits(share + 1, count)} times"
    for places in range(count, count + 4):
        text = digits(100 * share, places, "+")
        if abs(float(text)) < 100:
            break
    return f"{text}%"


def told_apart(found: Comparison, spreads: Mapping[str, Spread] | None = None) -> dict[Pair, Apart]:
    """Every ordered pair of the comparison's schemes; both orders of a pair count as one comparison."""
    pairs = list(combinations(found.reports, 2))
    aparts = apart_of(found, pairs, spreads)
    turned = {(other, one): _turned(found, one, other, aparts[one, other]) for one, other in pairs}
    return aparts | turned


def apart_of(
    found: Comparison, pairs: Iterable[Pair], spreads: Mapping[str, Spread] | None = None
) -> dict[Pair, Apart]:
    """These pairs alone, corrected for as many."""
    kl = {text: report.kl for text, report in found.reports.items()}
    return judged({pair: found.kl_difference(*pair) for pair in pairs}, kl, spreads)


def judged(
    differences: Mapping[Pair, Interval], kl: Mapping[str, float], spreads: Mapping[str, Spread] | None = None
) -> dict[Pair, Apart]:
    """Paired differences of mean KL, corrected for as many as there are. kl, spreads: by the names that make pairs."""
    known = {
        (one, other): (spreads[one], spreads[other])
        for one, other in differences
        if spreads is not None and _measured(spreads, one) and _measured(spreads, other)
    }
    ps = {
        pair: both(each.p, luck_p(each.value, *known[pair])) if pair in known else each.p
        for pair, each in differences.items()
    }
    corrected = holm(ps)
    return {
        (one, other): Apart(
            difference=each,
            share=_share(each.value, kl[other]),
            luck=luck_bar(*known[one, other]) if (one, other) in known else None,
            p=corrected[one, other],
        )
        for (one, other), each in differences.items()
    }


def _measured(spreads: Mapping[str, Spread], text: str) -> bool:
    return text in spreads and spreads[text].freedom > 0


def _share(difference: float, kl: float) -> float | None:
    return difference / kl if kl else None


def _turned(found: Comparison, one: str, other: str, apart: Apart) -> Apart:
    each = apart.difference
    difference = Interval(-each.value, -each.hi, -each.lo, each.p)
    return Apart(difference, _share(difference.value, found.reports[one].kl), apart.luck, apart.p)
