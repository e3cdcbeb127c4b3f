"""Questions about hardware: how long products take here, and what a model takes of a card's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from quantcore.lab.bench import Bench
from quantcore.lab.memo import remembered
from quantcore.lab.whole import SoFar
from quantcore.pipeline.calibration import Progress
from quantcore.studies.footprint import PRESET_SHAPES, Footprint, ModelShape
from quantcore.studies.footprint import footprint as footprint_of
from quantcore.studies.gpus import Machine
from quantcore.studies.hardware import measure_machine
from quantcore.studies.speed import SpeedReport, closed_paths, measure_paths

LOADED = "loaded"


class Speed(NamedTuple):
    """A measurement on the device at hand; `closed`: of each scheme whose own path this device has not, the path's name
    and the reason."""

    machine: Machine
    report: SpeedReport
    closed: dict[str, tuple[str, str]]


def speed(
    lab: Bench,
    shape: tuple[int, int],
    tokens: Sequence[int],
    schemes: Sequence[str],
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Speed:
    """Times of a layer (O, K) under schemes, and the machine's own bandwidth and rates, measured now. Everything that
    touches the device is done here, so that nothing else runs there while the clock does."""
    if progress:
        progress(0.0, "bandwidth and rates")
    machine = measure_machine(lab.device)
    report = measure_paths(shape, list(tokens), list(schemes), lab.device, progress=progress)
    return Speed(machine, report, closed_paths(report, lab.device))


@remembered(256)
def footprint(lab: Bench, shape: str, plan: str, context: int = 8192, batch: int = 1, kv_bits: int = 16) -> Footprint:
    """Bytes of weights, KV cache and activations; `shape` as in `shape_named`."""
    return footprint_of(shape_named(lab, shape), plan, context, batch, kv_bits)


@remembered(4)
def shape_named(lab: Bench, shape: str = LOADED) -> ModelShape:
    """The shape of the loaded model, of a preset's name, or of a typed one. Raises: ValueError."""
    if shape == LOADED:
        return ModelShape.of(lab.model, "The loaded model")
    return PRESET_SHAPES.get(shape) or ModelShape.parse(shape)
