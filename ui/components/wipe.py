"""Maps of the same cells, one over the other, with a slider that wipes from the first to another: before and after.

    wipe([("one scale", errors), ("a scale a row", finer)], key="errors", alt="...", axes="output x input")

Errors span decades, so a colour goes by their logarithm, on one scale for all maps: from the largest value down by
DECADES. A cell larger than a number shows the largest of its block. `height` is the least: what the window has left
over, as a page's CSS says it in --lab-tall, is added.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import torch
from torch import Tensor

from quantcore.numbers.pooling import pool_extreme
from ui.components.bridge import component, encode

ROWS, COLUMNS, DECADES = 128, 256, 3

_mount = component("wipe")


def wipe(maps: Sequence[tuple[str, Tensor]], *, key: str, alt: str, axes: str, unit: str, height: int = 420) -> None:
    """Draw the maps (R, C) of one shape. Raises: ValueError without alt, or for fewer than two maps."""
    if not alt.strip() or len(maps) < 2:
        raise ValueError(f"wipe {key!r} needs an alt and two maps or more; it has {len(maps)}")
    pooled = [(name, pool_extreme(values.abs(), ROWS, COLUMNS).values) for name, values in maps]
    most = max(float(values.max()) for _, values in pooled) or 1.0
    message = {
        "key": key,
        "alt": alt,
        "axes": axes,
        "height": height,
        "ends": [f"{most * 10**-DECADES:.2g}", f"{most:.2g} {unit}"],
        "maps": [
            {"name": name, "rows": values.shape[0], "cols": values.shape[1], "cells": _packed(values, most)}
            for name, values in pooled
        ],
    }
    _mount(encode(message), key=key, height="content")


def _packed(values: Tensor, most: float) -> str:
    """A byte a cell: 255 at `most`, 0 at DECADES below it and less."""
    share = 1 + (values / most).clamp_min(10**-DECADES).log10() / DECADES
    return base64.b64encode((255 * share).round().to(torch.uint8).numpy().tobytes()).decode()
