"""Keys that press a page's buttons: the arrows, and the page keys that a presenter's remote control sends.

    page_keys({"ArrowRight": ("show", "next")}, key="keys")      presses the first of these buttons that is there

A key is the page's only where the focus is on nothing that uses it, such as a slider. Streamlit's own r, c and Esc are
left to it.
"""

from collections.abc import Mapping, Sequence

from ui.components.bridge import component, encode

_mount = component("page_keys")


def page_keys(buttons: Mapping[str, Sequence[str]], *, key: str) -> None:
    """`buttons`: the browser's name of a key -> the Streamlit keys of buttons."""
    _mount(encode({name: list(one) for name, one in buttons.items()}), key=key, height=1)
