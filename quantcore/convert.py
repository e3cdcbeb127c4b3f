"""Turn a model into its quantized copy, layer by layer, and report what each layer lost.

The original is never touched: the copy shares every tensor that stays float and holds a QuantLinear where a Linear was.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.affine import QParams, choose_qparams
from quantcore.calibrate import LayerStats, Progress, calibrate, momenta_of, watch_inputs
from quantcore.evaluate import sqnr_db, tensor_error
from quantcore.layers import QuantLinear
from quantcore.models import batches, linears
from quantcore.qtensor import dequantize, quantize
from quantcore.scheme import QuantSpec, Scheme

OUTPUT_TOKENS = 2048


@dataclass(frozen=True)
class LayerReport:
    """One layer after quantization. `weight_sqnr_db` is None where the weight stayed float; `output_sqnr_db` compares
    the layer's output, float weight on float input against quantized on the same input, and is None without tokens."""

    name: str
    shape: tuple[int, int]
    scheme: str
    bits_per_weight: float
    held_bytes: int
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    seconds: float
    notes: tuple[str, ...] = ()


def quantize_model(
    model: nn.Module,
    scheme: Scheme | str,
    tokens: Tensor | None = None,
    stats: dict[str, LayerStats] | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, list[LayerReport]]:
    """A quantized copy of the model, and a report for every Linear that was quantized.

    tokens   calibration text, (windows, T): needed for static activations unless `stats` holds their ranges; where
             given, the first OUTPUT_TOKENS of it also measure each layer's output error
    Raises: ValueError that names the layer: NaN or Inf in a weight, a tile that does not divide it, no tokens for a
    static scheme, nothing left to quantize."""
    scheme = Scheme.parse(scheme) if isinstance(scheme, str) else scheme
    chosen = {name: layer for name, layer in linears(model).items() if not scheme.skips(name)}
    if scheme.weights is None and scheme.activations is None:
        chosen = {}
    elif not chosen:
        raise ValueError(f"{scheme} skips every Linear of the model; shorten skip=")
    if scheme.activations is not None and not scheme.activations.dynamic and stats is None:
        if tokens is None:
            raise ValueError(f"{scheme} freezes activation ranges, so it needs calibration tokens; give tokens=")
        stats = calibrate(model, tokens, chosen, hessian=False, momenta=momenta_of(scheme))
    replaced: dict[str, QuantLinear] = {}
    reports: list[LayerReport] = []
    for done, (name, layer) in enumerate(chosen.items()):
        replaced[name], report = _quantize_layer(name, layer, scheme, stats)
        reports.append(report)
        if progress:
            progress((done + 1) / len(chosen), name)
    if tokens is not None and replaced:
        outputs = output_sqnr(model, replaced, tokens)
        reports = [replace(report, output_sqnr_db=outputs[report.name]) for report in reports]
    return _copy_with(model, replaced), reports


def quantize_linear(layer: nn.Linear, scheme: Scheme, static: QParams | None = None) -> QuantLinear:
    """The quantized form of one Linear; `static` are the frozen qparams of its input, where the scheme freezes them."""
    bias = None if layer.bias is None else layer.bias.detach()
    weight = layer.weight.detach()
    static = None if static is None else _on_device(static, weight.device)
    if scheme.weights is None:
        return QuantLinear(None, bias, scheme.activations, static, float_weight=weight)
    return QuantLinear(quantize(weight, scheme.weights), bias, scheme.activations, static)


def _on_device(qparams: QParams, device: torch.device) -> QParams:
    scale, zero_point = qparams
    return QParams(scale.to(device), None if zero_point is None else zero_point.to(device))


def static_qparams(spec: QuantSpec | None, stats: LayerStats | None) -> QParams | None:
    """Frozen qparams, shape (1, 1), from recorded ranges; None where the spec freezes nothing."""
    if spec is None or spec.dynamic:
        return None
    if stats is None:
        raise ValueError("static activations need this layer's recorded range; calibrate it first")
    lo, hi = stats.ranges.range(spec)
    return choose_qparams(lo, hi, spec.fmt, spec.symmetric)


def output_sqnr(model: nn.Module, quantized: dict[str, QuantLinear], tokens: Tensor) -> dict[str, float]:
    """SQNR in dB of each layer's output on the float model's own inputs, over the first OUTPUT_TOKENS tokens."""
    originals = linears(model)
    sums = dict.fromkeys(quantized, (0.0, 0.0))

    def see(name: str, x: Tensor) -> None:
        y = F.linear(x, originals[name].weight).double()
        y_hat = quantized[name](x).double()
        bias = originals[name].bias
        error = y_hat - (y if bias is None else y + bias)
        signal, noise = sums[name]
        sums[name] = (signal + float(y.square().sum()), noise + float(error.square().sum()))

    few = tokens[: max(1, OUTPUT_TOKENS // tokens.shape[1])]
    device = next(model.parameters()).device
    with watch_inputs(model, quantized, see), torch.inference_mode():
        for batch in batches(few, device, OUTPUT_TOKENS):
            model(batch, use_cache=False)
    return {name: sqnr_db(*pair) for name, pair in sums.items()}


def _quantize_layer(
    name: str, layer: nn.Linear, scheme: Scheme, stats: dict[str, LayerStats] | None
) -> tuple[QuantLinear, LayerReport]:
    started = time.perf_counter()
    try:
        static = static_qparams(scheme.activations, (stats or {}).get(name))
        quantized = quantize_linear(layer, scheme, static)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
    qweight = quantized.qweight
    return quantized, LayerReport(
        name=name,
        shape=(layer.out_features, layer.in_features),
        scheme=str(scheme),
        bits_per_weight=qweight.bits_per_weight if qweight else 16.0,
        held_bytes=qweight.held_bytes if qweight else layer.weight.nbytes,
        weight_sqnr_db=tensor_error(layer.weight, dequantize(qweight)).sqnr_db if qweight else None,
        output_sqnr_db=None,
        seconds=time.perf_counter() - started,
    )


def _copy_with(model: nn.Module, replaced: dict[str, QuantLinear]) -> nn.Module:
    """A copy of the model's modules that shares its tensors, with the given modules in place of the old ones."""
    instead: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    instead |= {id(model.get_submodule(name)): module for name, module in replaced.items()}
    return copy.deepcopy(model, instead)
