"""A scheme or plan by name, in a sentence, a table's cell or a link's label: all of them are read as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import commonprefix

from quantcore.measure.duel import LONGEST, short_label
from quantcore.scheme.plan import Plan
from ui.markdown import as_is


def named(text: str, longest: int = LONGEST) -> str:
    """Its short name as it is: the name of a plan, `W3A16@mlp.down_proj=W8A16`, would become a link to write a mail."""
    return as_is(short_label(text, longest))


def pair(one: str, other: str, longest: int = LONGEST) -> tuple[str, str]:
    """Two short names that are not alike: where both would be cut before they differ, that part stands in them."""
    short = short_label(one, longest), short_label(other, longest)
    if short[0] != short[1] or one == other:
        return short
    first, second = Plan.parse(one).label, Plan.parse(other).label
    head = f"{first[: longest // 3]} ... "
    room, apart = longest - len(head), len(commonprefix([first, second]))
    layer = max(first.rfind(mark, 0, apart) for mark in ",@") + 1  # from its first letter, where it fits
    start = max(layer, apart - room + len(" ...") + 1)
    return head + _cut(first[start:], room), head + _cut(second[start:], room)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def by_name(texts: Iterable[str], longest: int = LONGEST) -> dict[str, str]:
    """Schemes or plans by the short names that tables and pictures give them, for a menu; in full where two plans, cut
    short, would be called alike."""
    every = list(texts)
    found = {short_label(text, longest): text for text in every}
    return found if len(found) == len(every) else {text: text for text in every}
