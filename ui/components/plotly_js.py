"""The plotly.js that plotly.py carries: the file, and where the app serves it. Imports neither plotly nor streamlit."""

import re
from importlib.util import find_spec
from pathlib import Path

_SPEC = find_spec("plotly")
assert _SPEC is not None
assert _SPEC.origin is not None
FILE = Path(_SPEC.origin).parent / "package_data" / "plotly.min.js"


def _version() -> str:
    """From the file's first lines: asking plotly.py takes an import of 0.2 s."""
    with FILE.open(encoding="utf-8") as lines:
        found = re.search(r"plotly\.js v([\w.-]+)", lines.read(500))
    if found is None:
        raise RuntimeError(f"{FILE} does not say its version in its first lines; is plotly installed whole?")
    return found[1]


FOLDER = f"plotly-{_version()}"
PATH = f"component/ui.components.bridge.{FOLDER}/{FILE.name}"  # below the app's own address
