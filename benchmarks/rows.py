"""The JSON file of a benchmark: written whole, or row by row as they come, so that a run that is cut off loses none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def put_row(out: Path, part: str, key: str, found: dict[str, Any]) -> None:
    """Put one row into the file, in the place of an older one of the same question."""
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    known.setdefault(part, {})[key] = found
    write(out, known)


def write(out: Path, found: dict[str, Any]) -> None:
    """Write the whole file, and its folder where there is none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
