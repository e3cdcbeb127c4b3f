"""Questions about one layer under a scheme, GPTQ's column by column among them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from quantcore.lab.bench import LEARNED, READ, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.outliers import channels
from quantcore.lab.specs import require_of_layers, weights_of
from quantcore.methods.options import Gptq, Qronos, Rtn
from quantcore.methods.qronos import Step
from quantcore.model.linears import linear_named
from quantcore.pipeline.calibration import LayerStats, NotReached, calibrate, layer_inputs, momenta_of
from quantcore.pipeline.convert import quantized_copy
from quantcore.pipeline.layers import static_qparams
from quantcore.scheme.scheme import Scheme
from quantcore.studies.drift import DriftStudy, drift_study
from quantcore.studies.gptq_cost import OrderCosts, measure_order_cost
from quantcore.studies.gptq_map import OrderMap, order_map
from quantcore.studies.gptq_order import Factor, OrderStudy, order_study
from quantcore.studies.gptq_steps import TileSteps, companions, neighbours, tile_rows, tile_steps
from quantcore.studies.layer import LayerStudy
from quantcore.studies.layer import layer_study as study_of
from quantcore.studies.outliers import CHANNEL_RATIO


@remembered(96)
def layer_study(lab: Bench, layer: str, scheme: str, reading: str = READ, calibration: str = LEARNED) -> LayerStudy:
    """One layer under a scheme: static ranges and GPTQ's Hessian come from the calibration text, the errors from the
    text that is read."""
    chosen = lab.scheme_of(scheme)
    require_of_layers(chosen)
    if chosen.transforms:
        return _transformed_study(lab, layer, chosen, reading, calibration)
    linear, seen = lab.linear(layer), None
    if chosen.needs_text:
        seen = lab.learned(layer, calibration, chosen.needs_hessian, _momenta(chosen), chosen.every_token)
    return _study(linear, lab.inputs(layer, reading), chosen, seen)


def _transformed_study(lab: Bench, layer: str, scheme: Scheme, reading: str, calibration: str) -> LayerStudy:
    """The layer where its model is transformed first: other weights, other inputs, the same function."""
    lab.linear(layer)  # refuses a name that is none
    model, seen = lab.transformed(str(replace(scheme, method=Rtn())), calibration), None
    left = scheme.plain
    if left.needs_text:
        learned = lab.tokens(calibration)
        known = calibrate(model, learned, [layer], left.needs_hessian, _momenta(left), every=left.every_token)
        if layer not in known:
            raise NotReached(layer, learned.numel(), learning=True)
        seen = known[layer]
    x = layer_inputs(model, lab.tokens(reading), layer).flatten(0, 1)
    return replace(_study(linear_named(model, layer), x, left, seen), scheme=str(scheme))


def _study(linear: nn.Linear, x: Tensor, scheme: Scheme, seen: LayerStats | None) -> LayerStudy:
    static = static_qparams(scheme.activations, seen) if scheme.needs_ranges else None
    return study_of(linear, x, scheme, static, None if seen is None else seen.hessian)


def _momenta(scheme: Scheme) -> tuple[float, ...]:
    return momenta_of(scheme) if scheme.needs_ranges else ()


@remembered(64)
def gptq_tile(lab: Bench, layer: str, scheme: str, together: bool = True, calibration: str = LEARNED) -> TileSteps:
    """GPTQ over a tile of the layer; `together`: the columns that go together most, else neighbours of the loudest."""
    weight, hessian = lab.linear(layer).weight, lab.hessian(layer, calibration)
    columns = companions(hessian) if together else neighbours(hessian)
    return tile_steps(weight, hessian, tile_rows(len(weight)), columns, weights_of(lab, scheme), gptq_of(lab, scheme))


@remembered(64)
def gptq_order(lab: Bench, layer: str, scheme: str, reading: str = READ, calibration: str = LEARNED) -> OrderStudy:
    """The layer in every order; the losses are on the calibration text, `unseen` on the text that is read."""
    seen, loud = lab.learned(layer, calibration), loud_channels(lab, layer, reading)
    return order_study(
        lab.linear(layer).weight,
        lab.hessian(layer, calibration),
        weights_of(lab, scheme),
        gptq_of(lab, scheme).damp,
        seen.tokens,
        loud,
        lab.inputs(layer, reading),
        lambda by_diagonal: gptq_factor(lab, layer, gptq_of(lab, scheme).damp, by_diagonal, calibration),
    )


@remembered(4)
def gptq_factor(lab: Bench, layer: str, damp: float, by_diagonal: bool, calibration: str = LEARNED) -> Factor:
    """What every scheme of one damping shares: a slider of bits or groups pays for it once."""
    return Factor.of(lab.hessian(layer, calibration), damp, by_diagonal)


@remembered(32, "Rounding the layers before ...")
def gptq_drift(lab: Bench, layer: str, scheme: str, reading: str = READ, calibration: str = LEARNED) -> DriftStudy:
    """The layer behind layers that are rounded to nearest under the scheme's weights: what that costs it, and who makes
    up for it. The codes learn from the calibration text; all is measured on both texts."""
    spec, linear = weights_of(lab, scheme), lab.linear(layer)
    rounded = quantized_copy(lab.model, f"{Scheme(spec)}@{layer}=float")

    def inputs(text: str) -> tuple[Tensor, Tensor]:
        x, moved = lab.inputs(layer, text), layer_inputs(rounded, lab.tokens(text), layer).flatten(0, 1)
        if x.shape != moved.shape:
            raise ValueError(f"the router sends other tokens to {layer!r} behind rounded layers; choose another layer")
        return x, moved

    damp = gptq_of(lab, scheme).damp
    return drift_study(
        linear.weight.detach(), inputs(calibration), inputs(reading), spec, damp, Step(Qronos.share, Qronos.ridge)
    )


def loud_channels(lab: Bench, layer: str, reading: str = READ) -> tuple[int, ...]:
    """The channels that stand out of what enters the layer, loudest first."""
    return tuple(row.channel for row in channels(lab, layer, reading).top if row.over_median >= CHANNEL_RATIO)


@remembered(16, "Quantizing in every way ...")
def gptq_map(
    lab: Bench,
    layer: str,
    bits: tuple[int, ...] = (2, 3, 4),
    granularities: tuple[str, ...] = ("channel",),
    damps: tuple[float, ...] = (0.001, 0.01, 0.1),
    calibration: str = LEARNED,
) -> OrderMap:
    """What each order loses in every setting."""
    return order_map(lab.linear(layer).weight, lab.hessian(layer, calibration), bits, granularities, damps)


@remembered(32, "Measuring the time ...")
def gptq_cost(lab: Bench, layer: str, scheme: str, calibration: str = LEARNED) -> OrderCosts:
    """What an order costs at run time: a measurement, kept until it is forgotten."""
    weight, x = lab.linear(layer).weight.detach(), lab.inputs(layer, READ)
    return measure_order_cost(weight, lab.hessian(layer, calibration), weights_of(lab, scheme), x)


def gptq_of(lab: Bench, scheme: str) -> Gptq:
    return Gptq.of(lab.scheme_of(scheme).method)
