"""All that was ever measured of schemes on whole models, by browser, shell or notebook: the store, read as a table.

rows = measured(store)                           newest first
own, spreads = with_luck(rows)                   jitters folded into their scheme's spread
aparts(store, own[:3], spreads)                  in pairs, as a duel judges them, where all read the same windows
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from quantcore.measure.frontier import unbeaten
from quantcore.measure.kept_scores import FLOAT, FLOAT_MODEL, KIND, report_of
from quantcore.measure.luck import Spread, without_jitter
from quantcore.measure.scores import ModelReport
from quantcore.measure.statistics import Interval, paired_interval
from quantcore.measure.store import Row, Store
from quantcore.measure.told_apart import Apart, judged


@dataclass(frozen=True)
class Measured:
    """One scheme on one model and text. `text_hash` is of the text that was read and of the calibration text: rows that
    have it in common were measured on the same windows. `made`: UTC."""

    key: str
    scheme: str
    model: str
    model_hash: str
    text_hash: str
    made: str
    report: ModelReport
    quantize_s: float

    @property
    def where(self) -> tuple[str, str, str, str]:
        """Model, text, device and versions: what rows have in common whose figures may be set beside each other."""
        return self.model_hash, self.text_hash, self.report.device, json.dumps(self.report.versions, sort_keys=True)


def measured(store: Store, model_hash: str | None = None) -> list[Measured]:
    """Every scheme that the store knows of, newest first; of one model alone where its hash is given. A row that this
    version cannot read is passed over."""
    read = (_measured(row) for row in store.rows(KIND) if row.scheme not in (FLOAT, FLOAT_MODEL))
    return [one for one in read if one is not None and model_hash in (None, one.model_hash)]


def _measured(row: Row) -> Measured | None:
    try:
        figures = json.loads(row.figures)
        report, quantize_s = report_of(figures), float(figures["quantize_s"])
    except (ValueError, TypeError, KeyError):  # written by hand, or cut off
        return None
    return Measured(row.key, row.scheme, row.model, row.model_hash, row.text_hash, row.made, report, quantize_s)


def with_luck(rows: Sequence[Measured]) -> tuple[list[Measured], dict[str, Spread]]:
    """The rows without those that are another row's scheme with other rounding luck; and by each row's key its spread
    with them, where there are any."""
    found = {(row.where, row.scheme): row for row in rows}
    lucks: dict[str, list[float]] = {}
    own = []
    for row in rows:
        base = found.get((row.where, without_jitter(row.scheme)))
        if base is None or base.scheme == row.scheme:
            own.append(row)
        else:
            lucks.setdefault(base.key, []).append(row.report.kl)
    kl = {row.key: row.report.kl for row in own}
    return own, {key: Spread((kl[key], *values)) for key, values in lucks.items()}


def with_jitters(rows: Iterable[Measured], chosen: Iterable[Measured]) -> list[str]:
    """The keys of the chosen rows and of all that were measured for their luck."""
    named = {(row.where, row.scheme) for row in chosen}
    return [row.key for row in rows if (row.where, without_jitter(row.scheme)) in named]


def aparts(
    store: Store, rows: Iterable[Measured], spreads: Mapping[str, Spread] | None = None
) -> dict[tuple[str, str], Apart]:
    """Every pair of rows, by their keys, corrected for as many pairs; without those of which one is gone.

    Raises: ValueError for rows that did not read the same windows of one model."""
    rows = list(rows)
    differences = {
        (one.key, other.key): found
        for one, other in combinations(rows, 2)
        if (found := kl_difference(store, one, other)) is not None
    }
    return judged(differences, {row.key: row.report.kl for row in rows}, spreads)


def kl_difference(store: Store, one: Measured, other: Measured) -> Interval | None:
    """Mean KL of `one` minus that of `other`, paired over windows; None where one of them is gone.

    Raises: ValueError for two rows that did not read the same windows of one model."""
    if (one.model_hash, one.text_hash) != (other.model_hash, other.text_hash):
        raise ValueError(
            f"{one.scheme} and {other.scheme} were measured on other windows or another model, so they cannot be "
            "compared in pairs; measure both in one duel"
        )
    arrays = [store.arrays(row.key) for row in (one, other)]
    if arrays[0] is None or arrays[1] is None:
        return None
    return paired_interval(torch.from_numpy(arrays[0]["kl"]), torch.from_numpy(arrays[1]["kl"]))


def frontier(rows: Iterable[Measured]) -> list[Measured]:
    """Those of which no other is smaller and no worse, by size; of equal ones the first."""
    found: dict[tuple[float, ...], Measured] = {}
    for row in unbeaten(rows, _figures):
        found.setdefault(_figures(row), row)
    return [found[figures] for figures in sorted(found)]


def _figures(row: Measured) -> tuple[float, ...]:
    return (row.report.bytes, row.report.kl)
