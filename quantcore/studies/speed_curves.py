"""What measured times say: where a scheme overtakes bf16 and where it falls behind; and runs recorded elsewhere.

run = read_run(Path("benchmarks/results/matmul.json"))         written by `python -m benchmarks.matmul`
crossings(run.reports["gate"], "W4A16")
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from quantcore.studies.speed import SpeedReport, SpeedRow

TIMES = ("encode_ms", "product_ms", "total_ms", "plain_ms", "float_ms", "float_plain_ms")
UNREST = 1.5


@dataclass(frozen=True)
class Recorded:
    """A run on some machine, on some day: `machine` says which, `reports` by the layer's name; `note` what else is to
    be known of it."""

    machine: Mapping[str, Any]
    reports: Mapping[str, SpeedReport]
    note: str = ""

    @property
    def about(self) -> str:
        """The machine, the versions and the date, in a line."""
        known = {**self.machine, **self.machine.get("versions", {})}
        versions = ", ".join(f"{name} {known[name]}" for name in ("torch", "triton", "cuda", "python") if name in known)
        return f"{self.device}, {versions}, {self.machine.get('date', 'no date')}"

    @property
    def device(self) -> str:
        known = next(iter(self.reports.values())).device
        return str(self.machine.get("gpu") or known)


@dataclass(frozen=True)
class Crossing:
    """Where a scheme's time meets bf16's: at `tokens` (between two measured counts, straight on log axes), `ms` of
    both; beyond it the scheme `wins`, or loses."""

    tokens: float
    ms: float
    wins: bool


def rows_of(report: SpeedReport, scheme: str) -> list[SpeedRow]:
    """A scheme's rows, fewest tokens first."""
    return sorted((row for row in report.rows if row.scheme == scheme), key=lambda row: row.tokens)


def crossings(report: SpeedReport, scheme: str) -> list[Crossing]:
    """Every place where the gain over bf16 passes 1. A gain of exactly 1 at a measured count is one crossing, there."""
    found = []
    rows = rows_of(report, scheme)
    for before, after in zip(rows, rows[1:], strict=False):
        first, second = math.log(before.gain), math.log(after.gain)
        if (first > 0) == (second > 0):
            continue
        share = first / (first - second)
        found.append(
            Crossing(
                _between(before.tokens, after.tokens, share),
                _between(before.float_ms, after.float_ms, share),
                second > 0,
            )
        )
    return found


def _between(first: float, second: float, share: float) -> float:
    return float(first ** (1 - share) * second**share)


def best_of(reports: Sequence[SpeedReport]) -> SpeedReport:
    """Of reports on the same work, each time the least: what disturbs a measurement only ever makes it slower."""
    found: dict[tuple[str, int], SpeedRow] = {}
    for row in (row for report in reports for row in report.rows):
        key = (row.scheme, row.tokens)
        found[key] = _least(found[key], row) if key in found else row
    return replace(reports[0], rows=tuple(found.values()))


def _least(first: SpeedRow, second: SpeedRow) -> SpeedRow:
    times = {name: min(getattr(first, name), getattr(second, name)) for name in TIMES}
    library = [ms for ms in (first.library_ms, second.library_ms) if ms is not None]
    return replace(first, **times, library_ms=min(library, default=None))


def disturbed(report: SpeedReport) -> list[SpeedRow]:
    """Rows that took UNREST times as long as the same scheme took for more tokens: something else was running."""
    found = []
    for scheme in dict.fromkeys(row.scheme for row in report.rows):
        rows = rows_of(report, scheme)
        for place, row in enumerate(rows):
            later = rows[place + 1 :]
            if any(row.total_ms > UNREST * one.total_ms or row.float_ms > UNREST * one.float_ms for one in later):
                found.append(row)
    return found


def read_run(path: Path) -> Recorded:
    """A file of `benchmarks.matmul`. Raises: ValueError, with the file's name, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        reports = {name: _report(found) for name, found in content["shapes"].items()}
        if not reports or not all(report.rows for report in reports.values()):
            raise ValueError("it holds no measured row")
        return Recorded(dict(content["machine"]), reports, str(content.get("note", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.name} is no recorded run ({type(error).__name__}: {error}); write it anew with "
            "python -m benchmarks.matmul"
        ) from error


def _report(found: Mapping[str, Any]) -> SpeedReport:
    names = {field.name for field in fields(SpeedRow)}
    rows = tuple(SpeedRow(**{name: row[name] for name in names}) for row in found["rows"])
    out, width = found["shape"]
    return SpeedReport(
        (int(out), int(width)),
        found["dtype"],
        found["device"],
        dict(found["versions"]),
        rows,
        dict(found["weight_bytes"]),
        dict(found["refused"]),
    )
