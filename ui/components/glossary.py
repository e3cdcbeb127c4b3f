"""The glossary, wherever one of its words stands on a page: its two lines on hover or tap, a dotted line where it
stands first, and a button "Words" that lists all of the page's words for keys and screen readers.

No text of a page is changed: the browser marks ranges of it (CSS custom highlights), so React's own nodes stay as they
are, and a page need not know which of its words are explained. A browser without highlights has the button alone.
"""

from functools import cache

from ui.components.bridge import component, encode
from ui.words.glossary import ALONE, WORDS, forms, pattern

_mount = component("glossary")


@cache
def _message() -> bytes:
    return encode({"words": WORDS, "forms": [[pattern(form), word] for form, word in forms().items()], "alone": ALONE})


def glossary() -> None:
    """Watch this page; once a page."""
    _mount(_message(), key="glossary", height=1)
