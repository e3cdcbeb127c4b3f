"""What a page shows, read from AppTest: our components arrive there as unknown elements that hold JSON bytes."""

import base64
import functools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from quantcore.lab.lab import Lab
from ui import kept, settled, visitors

ROOT = Path(__file__).parents[1]
settled.SOON_S = 120.0  # a page draws what it is asked in the run that asks, however busy the machine is

# A server looks through the installed packages for components once, AppTest each time that it is made: a tenth of a
# second, some 700 times in the suite.
manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)


def new_server() -> None:
    """As after a start: no lab, no job, no teacher, and the store where QUANT_HOME is by now."""
    for one in (kept.store, kept.jobs, kept.shelf, visitors.teachers):
        one.clear()


@contextmanager
def own_server(home: Path) -> Iterator[None]:
    """A new server inside, that keeps what it measures in `home`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANT_HOME", str(home))
        new_server()
        yield


def lab_of(at: AppTest) -> Lab:
    """The lab that a page with a line for its model asks."""
    return kept.shared_lab(at.text_input(key="model").value, "cpu")


def page(name: str, **state: Any) -> AppTest:
    """The app opened at a page, `3_Outliers` or `` for the first one, in the state of a link; not run yet.

    The expanders at its foot are open: what they hold is made only then."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.session_state["numbers"] = at.session_state["python"] = True
    if name:
        at.switch_page(f"pages/{name}.py")
    for key, value in state.items():
        at.query_params[key] = value if isinstance(value, list) else str(value)
    return at


def settle(at: AppTest) -> AppTest:
    """Run until no job is under way, after each again; the limit is for a machine that does much else."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        at.run()
        assert not at.exception
        if not any(str(button.key).startswith("cancel_") for button in at.button):
            return at
        for job in kept.jobs().unfinished()[:1]:
            job.ended.wait(end - time.monotonic())
    raise AssertionError("the page's job did not end")


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


def click(at: AppTest, key: str, **point: Any) -> None:
    """Act as if a point of chart `key` had been clicked; takes effect with the next `at.run()`."""
    at.session_state[key] = {"click": point}


def move_number_line(at: AppTest, key: str, **moved: Any) -> None:
    """Act as if number line `key` had been released with another x, clip, scales or zero_points; then `at.run()`."""
    sent = next(shown for shown in number_lines_of(at) if shown["key"] == key)
    scales = moved.get("scales", [line["scale"] for line in sent["lines"]])
    zeros = moved.get("zero_points", [line["zero_point"] for line in sent["lines"]])
    lines = [{"scale": scale, "zero_point": zero} for scale, zero in zip(scales, zeros, strict=True)]
    ids = {"lines_id": sent["lines_id"], "axis_id": sent["axis_id"]}
    value = {"x": moved.get("x", sent["x"]), "clip": moved.get("clip", 1.0), "lines": lines, **ids}
    at.session_state[key] = {"value": value}


def values(packed: Any) -> np.ndarray:
    """A trace's x, y, z ... as an array, whether plotly.py packed it as {dtype, bdata, shape} or left a list."""
    if not isinstance(packed, dict):
        return np.asarray(packed)
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=np.dtype(packed["dtype"]))
    shape = packed.get("shape")
    return flat.reshape([int(n) for n in shape.split(",")]) if shape else flat


def metrics(at: AppTest) -> dict[str, str]:
    """What the page's metrics say, by label."""
    return {metric.label: metric.value for metric in at.metric}


def said(at: AppTest) -> str:
    """All of the page's prose."""
    return "\n".join(element.value for element in at.markdown)


def errors(at: AppTest) -> list[str]:
    """The sentences in the page's red boxes."""
    return [error.value for error in at.error]


def _messages(at: AppTest, name: str) -> list[dict[str, Any]]:
    protos = [element.proto for element in at.get("bidi_component")]
    return [json.loads(proto.bytes) for proto in protos if proto.component_name == name]
