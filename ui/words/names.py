"""A scheme or plan by name, in a sentence, a table's cell or a link's label: all of them are read as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from quantcore.measure.duel import short_label
from ui.markdown import as_is


def named(text: str, longest: int = 34) -> str:
    """Its short name as it is: the name of a plan, `W3A16@mlp.down_proj=W8A16`, would become a link to write a mail."""
    return as_is(short_label(text, longest))


def by_name(texts: Iterable[str], longest: int = 34) -> dict[str, str]:
    """Schemes or plans by the short names that tables and pictures give them, for a menu; in full where two plans, cut
    short, would be called alike."""
    every = list(texts)
    found = {short_label(text, longest): text for text in every}
    return found if len(found) == len(every) else {text: text for text in every}
