"""A button that copies the page's address, which holds its whole state, to the clipboard."""

from typing import Any

from ui.components.bridge import component, encode

_mount = component("copy_link")


def copy_link(*, key: str) -> Any:
    """Draw the button; it says so when the link is copied, and shows the link where the browser forbids copying."""
    return _mount(encode({"label": "Copy link"}), key=key, width="content", height=40)
