"""What a page does beside drawing: folds a narrow screen's menu, reads headlines out, shows what a preset moved."""

from collections.abc import Sequence

from ui.components.bridge import component, encode

_mount = component("page_life")


def page_life(moved: Sequence[str], follow: int) -> None:
    """Draws nothing. moved: the keys of the controls that a preset sets; follow: how often presets were followed, so
    that the browser shows each once."""
    _mount(encode({"moved": list(moved), "follow": follow}), key="page_life", height=1)
