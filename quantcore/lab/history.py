"""What was measured of this model, and the queue that measures more: a list of schemes, one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from quantcore.lab.bench import LEARNED, MEASURED, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.whole import duel, kept_schemes
from quantcore.measure.measured import Measured
from quantcore.measure.measured import measured as read_measured
from quantcore.measure.store import Question, tokens_hash
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.text.reading import EVALUATE, STUDY
from quantcore.text.windows import TEXT_KINDS

QUEUED = "queue"  # of the store's questions


def measured(lab: Bench, reading: str = MEASURED) -> list[Measured]:
    """Every scheme that was measured on this model, newest first, on whatever text; of a visitor's own text, where
    `reading` is one, those alone."""
    return read_measured(lab.store(reading), lab.hash)


@remembered(64)
def reading_of(lab: Bench, text_hash: str, tokens: int) -> str | None:
    """The reading of one of our texts that rows of so many tokens were measured on; None for somebody's own text, and
    for another cut."""
    for source in (MEASURED.partition("|")[0], *(f"evaluation/{kind}" for kind in TEXT_KINDS)):
        for usual in (EVALUATE, STUDY):
            reading = str(replace(usual, source=source).at_most(tokens))
            read = lab.tokens(reading)
            if read.numel() == tokens and tokens_hash(read, lab.tokens(LEARNED)) == text_hash:
                return reading
    return None


def queue(
    lab: Bench,
    schemes: Sequence[str],
    reading: str = MEASURED,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: Callable[[Any], None] | None = None,
) -> list[str]:
    """Measure schemes one after another, each kept as soon as it is there: what is asked for again goes on where it
    stood. Until it is done or given up the store knows of it (`unfinished`), so that a server that starts anew goes on.
    `so_far` is told each one's text. The texts in full of those that the model can take."""
    todo = lab.able(schemes)
    note_queue(lab, todo, reading, calibration)
    try:
        for place, text in enumerate(todo):
            duel(lab, [text], reading, calibration, part_of(progress, place, len(todo)))
            if so_far:
                so_far(text)
    finally:  # done, cancelled or refused; where the process ends, nothing is dropped
        note_queue(lab, todo, reading, calibration, given_up=True)
    return todo


def note_queue(
    lab: Bench,
    schemes: Sequence[str],
    reading: str = MEASURED,
    calibration: str = LEARNED,
    given_up: bool = False,
) -> None:
    """Note in the store that a queue was asked for, as soon as it waits in line; or that nobody waits for it."""
    kept_in = lab.store(reading, calibration)
    asked = Question(QUEUED, "\n".join(schemes), lab.id, lab.hash, f"{reading} {calibration}", lab.device, {})
    if given_up:
        kept_in.drop([asked.key])
    else:
        kept_in.put(asked, {"schemes": list(schemes), "reading": reading, "calibration": calibration}, {})


def unfinished(lab: Bench, reading: str = MEASURED) -> list[tuple[tuple[str, ...], str, str]]:
    """What `queue` was asked for on this model and device and has not done, first come first."""
    found = []
    for row in reversed(lab.store(reading).rows(QUEUED)):
        if (row.model_hash, row.device) == (lab.hash, lab.device):
            asked = json.loads(row.figures)
            found.append((tuple(asked["schemes"]), str(asked["reading"]), str(asked["calibration"])))
    return found


def kept_queue(
    lab: Bench, schemes: Sequence[str], reading: str = MEASURED, calibration: str = LEARNED
) -> list[str] | None:
    """The same where all of them are kept."""
    todo = lab.able(schemes)
    return todo if len(kept_schemes(lab, todo, reading, calibration)) == len(todo) else None
