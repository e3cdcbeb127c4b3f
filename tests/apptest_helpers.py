"""What a page shows, read from AppTest: our components arrive there as unknown elements that hold JSON bytes."""

import base64
import json
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest


def figures_of(at: AppTest) -> list[dict[str, Any]]:
    """Every chart of the page, in order: {"key", "alt", "height", "click", "link", "figure": {"data", "layout"}}."""
    return _messages(at, "lab_chart")


def figure_of(at: AppTest, key: str) -> dict[str, Any]:
    """The chart with this key; a KeyError names the charts there are."""
    found = {shown["key"]: shown for shown in figures_of(at)}
    if key not in found:
        raise KeyError(f"no chart {key!r} on this page; it has {sorted(found)}")
    return found[key]


def number_lines_of(at: AppTest) -> list[dict[str, Any]]:
    """Every number line of the page: {"key", "lines", "lo", "hi", "x", "counts", "edges", ...}."""
    return _messages(at, "lab_number_line")


def values(packed: Any) -> np.ndarray:
    """A trace's x, y, z ... as an array, whether plotly.py packed it as {dtype, bdata, shape} or left a list."""
    if not isinstance(packed, dict):
        return np.asarray(packed)
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=np.dtype(packed["dtype"]))
    shape = packed.get("shape")
    return flat.reshape([int(n) for n in shape.split(",")]) if shape else flat


def _messages(at: AppTest, name: str) -> list[dict[str, Any]]:
    protos = [element.proto for element in at.get("bidi_component")]
    return [json.loads(proto.bytes) for proto in protos if proto.component_name == name]
