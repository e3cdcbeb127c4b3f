"""Questions about one weight, or what enters it, on a grid of codes: formats, and who shares a scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from quantcore.lab.bench import READ, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.specs import weights_of
from quantcore.numbers.formats import format_named
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.observers import MOST_COUNTED
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.scales import FLOAT
from quantcore.numbers.selection import kth_smallest
from quantcore.scheme.scheme import Scheme
from quantcore.studies import coded_scales
from quantcore.studies.coded_scales import CodedBlock
from quantcore.studies.granularity import GranularityRow, GranularityStudy, every_granularity, granularity_study
from quantcore.studies.number_formats import CodeUse, Grid, Snap, code_use, fit, snap

Of = Literal["weight", "inputs"]


@dataclass(frozen=True)
class ValueCounts:
    """A tensor's values counted in equal bins between lo and hi, an axis that holds 0 and both ends."""

    lo: float
    hi: float
    counts: tuple[int, ...]
    edges: tuple[float, ...]


def values_of(lab: Bench, layer: str, of: Of, reading: str) -> Tensor:
    """A layer's weight, or what enters it."""
    return lab.weight(layer) if of == "weight" else lab.inputs(layer, reading)


@remembered(64)
def value_counts(lab: Bench, layer: str, of: Of = "weight", reading: str = READ, bins: int = 161) -> ValueCounts:
    values = values_of(lab, layer, of, reading).flatten()
    reach = float(torch.linalg.vector_norm(values, torch.inf)) * 1.05 or 1.0
    parts = [torch.histc(part, bins, -reach, reach).double() for part in torch.split(values, MOST_COUNTED)]
    counts = torch.stack(parts).sum(0).tolist()
    return ValueCounts(-reach, reach, tuple(map(int, counts)), tuple(torch.linspace(-reach, reach, bins + 1).tolist()))


@remembered(64)
def value_range(lab: Bench, layer: str, of: Of = "weight", reading: str = READ) -> tuple[float, float]:
    """The least and the greatest value; a grid that is fitted to them ends near them, for its zero point is rounded."""
    lo, hi = values_of(lab, layer, of, reading).aminmax()
    return float(lo), float(hi)


@remembered(64)
def large_value(lab: Bench, layer: str, of: Of = "weight", reading: str = READ, share: float = 0.99) -> float:
    """The value whose magnitude exceeds that of `share` of all: one that is really there, far enough from 0 to see."""
    values = values_of(lab, layer, of, reading).flatten()
    size = float(kth_smallest(values.abs(), max(1, int(share * values.numel()))))
    return size if bool((values == size).any()) else -size


@remembered(256)
def fitted_grid(lab: Bench, layer: str, name: str, of: Of = "weight", reading: str = READ) -> Grid:
    """The format `name` (`_asym`: with a zero point) over the tensor's min-max range."""
    fmt, symmetric = format_named(name.removesuffix("_asym")), not name.endswith("_asym")
    return fit(values_of(lab, layer, of, reading), fmt, symmetric)


@remembered(512)
def format_use(
    lab: Bench,
    layer: str,
    name: str,
    scale: float,
    zero_point: int | None,
    x: float,
    of: Of = "weight",
    reading: str = READ,
) -> tuple[CodeUse, Snap]:
    """How the tensor's values fall on a format's codes at this scale and zero point, and what becomes of x."""
    grid = Grid(format_named(name.removesuffix("_asym")), scale, zero_point)
    return code_use(values_of(lab, layer, of, reading), grid), snap(x, grid)


@remembered(256)
def coded_block(lab: Bench, layer: str, scheme: str, times: float = 1.0) -> CodedBlock:
    """A real block of a layer's weight under a scheme with coded scales, its numbers `times` as large."""
    return coded_scales.coded_block(lab.weight(layer), weights_of(lab, scheme), times)


@remembered(64)
def granularity(lab: Bench, layer: str, scheme: str, reading: str = READ) -> GranularityStudy:
    """A layer's weight under a scheme, beside every other granularity."""
    spec = weights_of(lab, scheme)
    rows = _rows(lab, layer, str(Scheme(replace(spec, granularity=PerTensor(), scales=FLOAT))), reading)
    return granularity_study(lab.weight(layer), lab.inputs(layer, reading), spec, rows)


@remembered(64)
def _rows(lab: Bench, layer: str, scheme: str, reading: str) -> tuple[GranularityRow, ...]:
    """The table of all granularities, which no move of the granularity changes."""
    spec = weights_of(lab, scheme)
    return every_granularity(lab.weight(layer), lab.inputs(layer, reading), spec)


@remembered(64)
def weight_limit(lab: Bench, layer: str, share: float = 0.9999) -> float:
    """A limit for the colours of a layer's weights that one outlier does not stretch: the size below which `share` of
    them lie."""
    magnitudes = lab.weight(layer).abs().flatten()
    return float(kth_smallest(magnitudes, max(1, int(share * magnitudes.numel())))) or 1.0


@remembered(64)
def coarsest_error(lab: Bench, layer: str, fmt: str) -> float:
    """Largest error of a format's per-tensor rounding: the common end of the error maps' colours."""
    tensor = lab.weight(layer)
    return float((fake_quantize(tensor, weights_of(lab, f"w:{fmt}/tensor")) - tensor).abs().max())
