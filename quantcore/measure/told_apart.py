"""Which schemes of a duel differ, beyond the chance of the text, of rounding luck and of many comparisons.

    found = told_apart(duel, spreads)[("w:int4/group64", "W8A8")]
    found.real, found.share, found.luck

A difference is real where its p, of text and luck together (`luck.both`), is below 0.05 after Holm's correction over
all pairs. Where luck was not measured the text alone decides, and `luck` is None: then the same scheme with other
rounding luck may pass for a different one, and whoever shows it must say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from quantcore.measure.luck import Spread, both, luck_bar, luck_p
from quantcore.measure.scores import Comparison
from quantcore.measure.statistics import LEVEL, Interval, holm

Pair = tuple[str, str]


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
    def real(self) -> bool:
        return self.p < 1 - LEVEL


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
    differences = {pair: found.kl_difference(*pair) for pair in pairs}
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
            share=_share(each.value, found.reports[other].kl),
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
