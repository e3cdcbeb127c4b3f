"""Questions of who leaves with a scheme: what a checkpoint takes, writing it, and reading it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.export_report import ExportReport
from quantcore.export.promise import Promise
from quantcore.export.promise import promise as promise_of
from quantcore.export.recipe import recipe as recipe_of
from quantcore.export.tensors import exact_types, require_plain_linears, stored_type
from quantcore.lab.bench import LEARNED, READ, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.whole import SoFar
from quantcore.measure.store import tokens_hash
from quantcore.model.machine import device_name
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import quantized_copy
from quantcore.scheme.plan import Plan
from quantcore.studies.written import ReadBack, Written, written
from quantcore.studies.written import read_back as read_again
from quantcore.text.reading import Reading


@remembered(64)
def promise(lab: Bench, plan: str) -> Promise:
    """What a checkpoint of the plan would take, byte by byte; nothing is quantized."""
    schemes = Plan.parse(plan).schemes_of(lab.layers(), lab.head)
    return promise_of(lab.model, plan, stored_type(lab.model, schemes, _exact_types(lab)))


@remembered(1)
def _exact_types(lab: Bench) -> tuple[torch.dtype, ...]:
    """Every parameter is looked at: once for all plans."""
    return exact_types(lab.model)


def checkpoint(
    lab: Bench,
    plan: str,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Written:
    """The quantized model as a compressed-tensors checkpoint, which transformers and vLLM load: the one among the kept
    results, or a new one there."""
    if (found := kept_checkpoint(lab, plan, calibration)) is not None:
        return found
    folder = checkpoint_folder(lab, plan, calibration)
    with lab.house.room(folder, promise(lab, plan).bytes):
        export(lab, plan, str(folder), calibration, progress=progress)
    found = written(folder)
    if found is None:
        raise ValueError(f"{str(folder)!r} is gone; write the checkpoint again")
    return found


def export(
    lab: Bench,
    plan: str,
    folder: str,
    calibration: str = LEARNED,
    force: bool = False,
    dtype: torch.dtype | None = None,
    reader: str = "transformers",
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> ExportReport:
    """The same in a folder of one's own, where `force` says whether what is there may be replaced, and for a reader."""
    lab.require_fits(plan)
    learned = lab.text_for(plan, calibration)
    how: dict[str, Any] = {"force": force, "dtype": dtype, "reader": reader, "progress": progress}
    return export_checkpoint(lab.whole, lab.plan_of(plan), folder, learned, **how)


def kept_checkpoint(lab: Bench, plan: str, calibration: str = LEARNED) -> Written | None:
    return written(checkpoint_folder(lab, plan, calibration))


def checkpoint_folder(lab: Bench, plan: str, calibration: str = LEARNED) -> Path:
    """A plan's folder among the kept results: names, and a hash of all that its contents depend on."""
    wanted = lab.plan_of(plan)
    asked = f"{lab.hash}|{lab.device}|{wanted}|{calibration if wanted.needs_text else None}"
    return lab.house.exports() / f"{short_name(lab, plan)}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def short_name(lab: Bench, plan: str) -> str:
    """A name for the plan's checkpoint: the model's own and the plan's label."""
    return f"{slug(model_name(lab.id))}-{slug(lab.plan_of(plan).label)}"


def model_name(model: str) -> str:
    """The last part of a model's path or id; of a snapshot in the hub's cache the repository's, not its commit's."""
    parts = model.rstrip("/").split("/")
    if len(parts) > 2 and parts[-2] == "snapshots":
        return parts[-3].rpartition("--")[2]
    return parts[-1].removesuffix(".gguf")


def slug(text: str, longest: int = 40) -> str:
    """A text as a part of a file's name: letters, digits and single dashes."""
    whole = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")
    return whole if len(whole) <= longest else whole[:longest].rpartition("-")[0] or whole[:longest]


def read_back(
    lab: Bench,
    plan: str,
    calibration: str = LEARNED,
    reading: str = READ,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> ReadBack:
    """The kept checkpoint, loaded by transformers, beside the quantized model that it was written from, both with a
    cache of floats, which is what transformers reads with.

    Raises: ValueError where there is none."""
    kept = kept_checkpoint(lab, plan, calibration)
    if kept is None:
        raise ValueError(f"no checkpoint of {plan!r} lies in {str(lab.house.exports())!r}; write it first")

    def tell(share: float, doing: str) -> None:
        if progress:
            progress(0.8 * share, doing)

    learned = lab.text_for(plan, calibration)
    copy = quantized_copy(lab.model, lab.plan_of(plan).of_layers, calibration=learned, progress=tell)
    tell(1, "loading the checkpoint")
    return read_again(kept.folder, copy, lab.tokens(reading))


def facts(lab: Bench, plans: Iterable[str], reading: str, calibration: str = LEARNED) -> dict[str, Any]:
    """What a report says of the model, the texts and the device."""
    needed = any(lab.plan_of(plan).needs_text for plan in plans)
    learned = _text_facts(lab, calibration) if needed else "none is needed"
    return {
        "model": lab.id,
        "revision": lab.whole.revision,
        "model hash": lab.hash,
        "text": _text_facts(lab, reading),
        "calibration": learned,
        "device": device_name(lab.whole.device),
    }


def recipe(lab: Bench, plan: str) -> str:
    """The plan as a recipe for llm-compressor, YAML. Raises: ValueError for layers that it would pass over."""
    known = lab.plan_of(plan)
    require_plain_linears(lab.model, known.schemes_of(lab.layers(), lab.head))
    return recipe_of(known)


def _text_facts(lab: Bench, reading: str) -> str:
    tokens = lab.tokens(reading)
    return (
        f"{Reading.parse(reading).words(lab.texts)}: {tokens.numel()} tokens in {len(tokens)} windows of "
        f"{tokens.shape[1]}, hash {tokens_hash(tokens)}"
    )
