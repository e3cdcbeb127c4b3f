"""One JSON file of a benchmark's rows, written as they come, so that a run that is cut off loses none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def put_row(out: Path, part: str, key: str, found: dict[str, Any]) -> None:
    """Put one row into the file, in the place of an older one of the same question."""
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    known.setdefault(part, {})[key] = found
    out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
