"""Questions of the course: which layer shows an idea best, where to cut, what an order made by hand loses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quantcore.lab.bench import READ, Bench
from quantcore.lab.grids import Of, ValueCounts, fitted_grid, values_of
from quantcore.lab.layers import gptq_of
from quantcore.lab.memo import remembered
from quantcore.lab.specs import activations_of, weights_of
from quantcore.numbers.qtensor import fake_quantize
from quantcore.scheme.scheme import Scheme
from quantcore.studies import few_columns, specimens
from quantcore.studies.cut import CutCurve, cut_curve
from quantcore.studies.few_columns import RealPair
from quantcore.studies.number_formats import relative_error
from quantcore.studies.specimens import Found
from quantcore.text.reading import CALIBRATE

FEW_TOKENS = str(CALIBRATE.at_most(2560))  # what the course's GPTQ learns from: a class waits for it


@remembered(8)
def wall(lab: Bench, reading: str = READ) -> Found | None:
    """The layer with a channel that is loud on every token; None where no layer has one."""
    return specimens.wall(lab.stats(reading))


@remembered(8)
def giant(lab: Bench, reading: str = READ) -> Found | None:
    """The layer with a token that dwarfs the others; None where none does."""
    return specimens.giant(lab.stats(reading))


@remembered(8)
def one_sided(lab: Bench, reading: str = READ) -> Found | None:
    """The layer whose input reaches furthest to one side; None where all reach about as far to both."""
    return specimens.one_sided(lab.stats(reading))


@remembered(1)
def uneven(lab: Bench) -> Found | None:
    """The layer whose rows of weights differ most in reach, among those that a scheme quantizes."""
    asked = Scheme.parse("w:int4/tensor")
    return specimens.uneven((name, lab.weight(name)) for name in lab.layers() if not asked.skips(name))


@remembered(32)
def cut(lab: Bench, layer: str, fmt: str, of: Of = "weight", reading: str = READ) -> CutCurve:
    """The error of a tensor under one scale, against where its range is cut."""
    return cut_curve(values_of(lab, layer, of, reading), weights_of(lab, f"w:{fmt}/tensor"))


@remembered(16)
def sizes(lab: Bench, layer: str, of: Of = "weight", reading: str = READ, bins: int = 48) -> ValueCounts:
    """How many |values| there are of each size: bins of equal width in the logarithm, down to a millionth of the
    largest; lo and hi are the first and the last edge."""
    magnitude = values_of(lab, layer, of, reading).abs()
    hi = float(magnitude.max()) or 1.0
    ends = math.log10(hi) - 6, math.log10(hi)
    counts = torch.histc(magnitude.clamp_min(1e-30).log10(), bins, *ends).tolist()
    edges = torch.logspace(*ends, bins + 1).tolist()
    return ValueCounts(edges[0], edges[-1], tuple(map(int, counts)), tuple(edges))


@remembered(512)
def off_by(
    lab: Bench, layer: str, fmt: str, values: Sequence[float], of: Of = "weight", reading: str = READ
) -> tuple[float, ...]:
    """How far off each value would be under the tensor's own scale in a format, as a share of the value."""
    grid = fitted_grid(lab, layer, fmt, of, reading)
    return tuple(relative_error(torch.tensor(list(values)), grid).tolist())


@remembered(8)
def input_error(lab: Bench, layer: str, scheme: str, reading: str = READ) -> Tensor:
    """x_hat - x of what enters a layer, (N, K), under a scheme's activations."""
    x = lab.inputs(layer, reading)
    return (fake_quantize(x, activations_of(lab, scheme)) - x).cpu()


@remembered(16)
def few(lab: Bench, layer: str, calibration: str = FEW_TOKENS) -> tuple[int, ...]:
    """Eight of a layer's columns, from the loudest to the quietest, in the layer's order."""
    return few_columns.spread(lab.hessian(layer, calibration))


@remembered(512)
def by_hand(
    lab: Bench, layer: str, order: Sequence[int], scheme: str = "w:int3/channel,gptq", calibration: str = FEW_TOKENS
) -> float:
    """GPTQ's loss over RTN's on those eight columns, visited in this order."""
    columns, hessian = few(lab, layer, calibration), lab.hessian(layer, calibration)
    return few_columns.by_hand(
        lab.linear(layer).weight, hessian, columns, order, weights_of(lab, scheme), gptq_of(lab, scheme)
    )


@remembered(16)
def pair(lab: Bench, layer: str, scheme: str = "w:int4/channel", calibration: str = FEW_TOKENS) -> RealPair:
    """Two columns and a row of the layer, for the picture of GPTQ with two weights."""
    return few_columns.real_pair(lab.weight(layer), lab.hessian(layer, calibration), weights_of(lab, scheme))
