"""Questions of who leaves with a scheme: what a checkpoint takes, writing it, and reading it again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from quantcore.export.checkpoint import ExportReport, export_checkpoint, stored_type
from quantcore.export.promise import Promise
from quantcore.export.promise import promise as promise_of
from quantcore.lab.bench import LEARNED, READ, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.whole import SoFar
from quantcore.measure.store import home, tokens_hash
from quantcore.model.machine import device_name
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.plan import Plan
from quantcore.studies.written import ReadBack
from quantcore.studies.written import read_back as read_again
from quantcore.text.reading import Reading

EXPORTS = "exports"


@remembered(64)
def promise(lab: Bench, plan: str) -> Promise:
    """What a checkpoint of the plan would take, byte by byte; nothing is quantized."""
    return promise_of(lab.model, plan, stored_type(lab.model))


def export(
    lab: Bench,
    plan: str,
    folder: str,
    calibration: str = LEARNED,
    force: bool = False,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> ExportReport:
    """The quantized model as a compressed-tensors checkpoint in `folder`, which transformers and vLLM load."""
    learned = lab.tokens(calibration) if Plan.parse(plan).needs_text else None
    return export_checkpoint(lab.loaded, plan, folder, learned, force=force, progress=progress)


def read_back(
    lab: Bench,
    plan: str,
    folder: str,
    calibration: str = LEARNED,
    reading: str = READ,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> ReadBack:
    """The checkpoint in `folder`, loaded by transformers, beside the quantized model that it was written from."""

    def tell(share: float, doing: str) -> None:
        if progress:
            progress(0.8 * share, doing)

    learned = lab.tokens(calibration) if Plan.parse(plan).needs_text else None
    copy, _ = quantize_model(lab.model, plan, calibration=learned, progress=tell)
    tell(1, "loading the checkpoint")
    return read_again(Path(folder), copy, lab.tokens(reading))


def export_folder(lab: Bench, plan: str, calibration: str, name: str) -> Path:
    """A folder for a plan's checkpoint among the kept results: `name`, and a hash of all that its contents depend on.

    Raises: ValueError where it cannot be made."""
    asked = f"{lab.hash}|{lab.device}|{plan}|{calibration if Plan.parse(plan).needs_text else None}"
    return home() / EXPORTS / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def facts(lab: Bench, plan: str, reading: str, calibration: str = LEARNED) -> dict[str, Any]:
    """What a report says of the model, the texts and the device."""
    learned = _text_facts(lab, calibration) if Plan.parse(plan).needs_text else "none is needed"
    return {
        "model": lab.id,
        "revision": lab.loaded.revision,
        "model hash": lab.hash,
        "text": _text_facts(lab, reading),
        "calibration": learned,
        "device": device_name(lab.loaded.device),
    }


def _text_facts(lab: Bench, reading: str) -> str:
    tokens = lab.tokens(reading)
    return (
        f"{Reading.parse(reading).words(lab.texts)}: {tokens.numel()} tokens in {len(tokens)} windows of "
        f"{tokens.shape[1]}, hash {tokens_hash(tokens)}"
    )
