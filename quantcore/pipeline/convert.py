"""Turn a model into its quantized copy, layer by layer, and report what each layer lost.

The original is never touched: the copy shares every tensor that stays float and holds a QuantLinear where a Linear was.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.matmul.layers import QuantLinear
from quantcore.methods.codes import Problem, codes
from quantcore.methods.gptq import CholeskyError, gptq_loss
from quantcore.model.linears import batches, block_names, left_float, linears
from quantcore.numbers.affine import QParams, choose_qparams
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.numbers.distance import sqnr_db, tensor_error
from quantcore.numbers.qtensor import QTensor, dequantize, fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.blocks import BlockWalk, Enough
from quantcore.pipeline.calibration import LayerStats, Progress, calibrate, gram_of, momenta_of, watch_inputs
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

OUTPUT_TOKENS = 2048
NO_LINEAR = "not quantized: a parameter of its own (fused experts, a router, a convolution), no Linear's weight"


@dataclass(frozen=True)
class LayerReport:
    """One layer after quantization; or, with scheme `float` and a note that says why, a matrix that cannot be quantized
    here and stays as it is. `weight_sqnr_db` is None where the weight stayed float; `output_sqnr_db` compares
    the layer's output, float weight on float input against quantized on the same input, and is None without tokens;
    `output_sqnr_windows` is its least and largest over single windows, None where the input comes without windows (an
    expert's share of the tokens).

    Of GPTQ: `loss` = sum over rows of e H e^T on the layer's calibration inputs, e = w - w_hat; `rtn_loss` what
    rounding to nearest would have had on the same inputs; `damp` its share of mean(diag(H))."""

    name: str
    shape: tuple[int, ...]
    scheme: str
    bits_per_weight: float
    held_bytes: int
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    seconds: float
    loss: float | None = None
    rtn_loss: float | None = None
    damp: float | None = None
    notes: tuple[str, ...] = ()
    output_sqnr_windows: tuple[float, float] | None = None


def quantize_model(
    model: nn.Module,
    scheme: Scheme | Plan | str,
    tokens: Tensor | None = None,
    stats: dict[str, LayerStats] | None = None,
    progress: Progress | None = None,
    calibration: Tensor | None = None,
    sequential: bool = True,
) -> tuple[nn.Module, list[LayerReport]]:
    """A quantized copy of the model, and a report for every Linear that was quantized, then for every matrix that is
    neither a Linear's nor an embedding's and so stays float (`models.left_float`).

    scheme       a scheme, a plan, or the text of either
    tokens       (windows, T): the first OUTPUT_TOKENS of it measure each layer's output error
    stats        recorded ranges and Hessians, where they were taken before; else they are taken here
    calibration  text for static ranges and GPTQ's Hessians, (windows, T); `tokens` where it is not given
    sequential   GPTQ's Hessians of a block come from the outputs of the blocks already quantized, as in the paper;
                 False: all from the float model (then `stats` with Hessians are used as they are)
    progress     called after each layer; an exception that it raises ends the work, and nothing is changed
    Raises: ValueError that names the layer: NaN or Inf in a weight, a tile that does not divide it, no tokens for a
    static scheme or for GPTQ, nothing left to quantize; CholeskyError of `gptq`."""
    plan, layers = Plan.of(scheme), linears(model)
    plan.require_layers(layers)
    schemes = {name: found for name in layers if (found := plan.scheme_for(name)) is not None}
    if not schemes and not plan.is_float:
        raise ValueError(f"{plan} skips every Linear of the model; shorten skip=")
    calibration = tokens if calibration is None else calibration
    stats = stats or _ranges(model, plan, schemes, calibration)
    by_gptq = {name: found for name, found in schemes.items() if found.needs_hessian}
    replaced: dict[str, QuantLinear] = {}
    reports: dict[str, LayerReport] = {}

    def quantize_set(names: list[str], hessian: Tensor | None) -> None:
        """Layers that read the same input: GPTQ solves them on one factorization."""
        for name, found, report in _quantize_set({n: (layers[n], schemes[n]) for n in names}, stats, hessian):
            replaced[name], reports[name] = found, report
            if progress:
                progress(len(replaced) / len(schemes), name)

    if by_gptq and (sequential or not stats or any(stats[name].hessian is None for name in by_gptq)):
        if calibration is None:
            raise ValueError(f"{plan} weighs errors with the layers' inputs, so it needs text; give calibration=")
        if sequential:
            _sequentially(copy_with(model, {}), schemes, calibration, quantize_set, replaced)
        else:
            seen = calibrate(model, calibration, by_gptq)
            for name in schemes:
                quantize_set([name], seen[name].hessian if name in seen else None)
    else:
        for name in schemes:
            quantize_set([name], stats[name].hessian if name in by_gptq and stats else None)
    if tokens is not None and replaced:
        outputs = output_sqnr(model, replaced, tokens)
        reports = {
            name: replace(report, output_sqnr_db=outputs[name].whole, output_sqnr_windows=outputs[name].windows)
            for name, report in reports.items()
        }
    rest = [_left_float(name, parameter) for name, parameter in left_float(model).items()] if schemes else []
    return copy_with(model, replaced), [*(reports[name] for name in schemes), *rest]


def _left_float(name: str, parameter: Tensor) -> LayerReport:
    return LayerReport(
        name=name,
        shape=tuple(parameter.shape),
        scheme="float",
        bits_per_weight=FLOAT_BITS,
        held_bytes=parameter.nbytes,
        weight_sqnr_db=None,
        output_sqnr_db=None,
        seconds=0.0,
        notes=(NO_LINEAR,),
    )


def _ranges(
    model: nn.Module, plan: Plan, schemes: dict[str, Scheme], calibration: Tensor | None
) -> dict[str, LayerStats] | None:
    """Recorded ranges of the layers whose activations are static; None where there are none."""
    static = {name: scheme for name, scheme in schemes.items() if scheme.needs_ranges}
    if not static:
        return None
    if calibration is None:
        raise ValueError(f"{plan} freezes activation ranges, so it needs calibration tokens; give tokens=")
    momenta = tuple(sorted({momentum for scheme in static.values() for momentum in momenta_of(scheme)}))
    return calibrate(model, calibration, static, hessian=False, momenta=momenta)


def _sequentially(
    work: nn.Module,
    schemes: dict[str, Scheme],
    calibration: Tensor,
    quantize_set: Callable[[list[str], Tensor | None], None],
    replaced: dict[str, QuantLinear],
) -> None:
    """Block by block: run it as it is for its layers' Hessians, quantize them, run it quantized for the next block's
    inputs. Layers outside of blocks (lm_head) come last, behind the whole quantized model. `work` is changed;
    `quantize_set` puts what it made into `replaced`."""
    blocks = block_names(work)
    inside = {block: [name for name in schemes if name.startswith(f"{block}.")] for block in blocks}
    outside = [name for name in schemes if not any(name in names for names in inside.values())]
    walk = BlockWalk(work, calibration) if blocks else None
    for block in blocks:
        assert walk is not None
        module = work.get_submodule(block)
        hessians = _hessians(module, block, [n for n in inside[block] if schemes[n].needs_hessian], walk)
        for hessian, names in hessians:
            quantize_set(names, hessian)
        by_rounding = [name for name in inside[block] if not schemes[name].needs_hessian]
        for name in by_rounding:
            quantize_set([name], None)
        for name in inside[block]:
            work.set_submodule(name, replaced[name])
        if block != blocks[-1]:
            walk.advance(module)
    by_gptq = [name for name in outside if schemes[name].needs_hessian]
    seen = calibrate(work, calibration, by_gptq) if by_gptq else {}
    for name in outside:
        quantize_set([name], seen[name].hessian if name in seen else None)


def _hessians(module: nn.Module, block: str, names: list[str], walk: BlockWalk) -> list[tuple[Tensor, list[str]]]:
    """X^T X of the named layers of a block, each with the layers that it belongs to: those that read one tensor.

    Once a batch has called each layer once, a later one goes no further than the last of them."""
    if not names:
        return []
    local = [name.removeprefix(f"{block}.") for name in names]
    leaders: dict[str, str] = {}
    sums: dict[str, Tensor] = {}
    last: list[Tensor] = []
    calls: list[str] = []
    once = False

    def see(name: str, x: Tensor) -> None:
        """Layers that read one tensor (q, k, v; gate, up) are called one after another with the very same object."""
        calls.append(name)
        if last and last[0] is x:
            leaders.setdefault(name, next(reversed(sums)))
        else:
            last[:] = [x]
            leaders.setdefault(name, name)
            gram = gram_of(x)
            sums[name] = gram if name not in sums else sums.pop(name).add_(gram)
        if once and len(calls) >= len(local) and set(calls) == set(local):
            raise Enough

    def next_batch(_: float) -> None:
        nonlocal once
        once = once or sorted(calls) == sorted(local)
        calls.clear()

    with watch_inputs(module, local, see):
        walk.run(module, next_batch)
    return [
        (total, [f"{block}.{name}" for name, leader in leaders.items() if leader == first])
        for first, total in sums.items()
    ]


def quantize_linear(
    layer: nn.Linear,
    scheme: Scheme,
    static: QParams | None = None,
    hessian: Tensor | None = None,
    name: str = "this layer",
) -> QuantLinear:
    """The quantized form of one Linear; `static` are the frozen qparams of its input, where the scheme freezes them,
    `hessian` the X^T X of its inputs, which GPTQ needs.

    Raises: ValueError where GPTQ has no Hessian, and what `quantize` and `gptq_quantize` refuse."""
    return _assembled(layer, scheme, static, _coded([(layer, scheme)], hessian, name)[0])


def _coded(members: list[tuple[nn.Linear, Scheme]], hessian: Tensor | None, name: str) -> list[QTensor | None]:
    """The members' weights as codes; None for one that stays float. `hessian` is of the input that they share."""
    problems = {
        place: Problem(layer.weight.detach(), scheme.weights, scheme.method)
        for place, (layer, scheme) in enumerate(members)
        if scheme.weights is not None
    }
    found = dict(zip(problems, codes(list(problems.values()), hessian, name), strict=True))
    return [found.get(place) for place in range(len(members))]


def _assembled(layer: nn.Linear, scheme: Scheme, static: QParams | None, qweight: QTensor | None) -> QuantLinear:
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    static = None if static is None else _on_device(static, weight.device)
    float_weight = weight if qweight is None else None
    return QuantLinear(qweight, bias, scheme.activations, static, float_weight=float_weight)


def _on_device(qparams: QParams, device: torch.device) -> QParams:
    scale, zero_point = qparams
    return QParams(scale.to(device), None if zero_point is None else zero_point.to(device))


def static_qparams(spec: QuantSpec | None, stats: LayerStats | None) -> QParams | None:
    """Frozen qparams, shape (1, 1), from recorded ranges; None where the spec freezes nothing."""
    if spec is None or not spec.static:
        return None
    if stats is None:
        raise ValueError("static activations need this layer's recorded range; calibrate it first")
    lo, hi = stats.ranges.range(spec)
    return choose_qparams(lo, hi, spec.fmt, spec.symmetric)


class OutputSqnr(NamedTuple):
    """SQNR of a layer's output in dB: over all windows, and the least and largest of a single one."""

    whole: float
    windows: tuple[float, float] | None


def output_sqnr(model: nn.Module, quantized: dict[str, QuantLinear], tokens: Tensor) -> dict[str, OutputSqnr]:
    """SQNR of each layer's output on the float model's own inputs, over the first OUTPUT_TOKENS tokens."""
    originals = linears(model)
    sums: dict[str, list[tuple[float, float]]] = {name: [] for name in quantized}

    def see(name: str, x: Tensor) -> None:
        """Sums of squares of signal and noise, a pair a window; x is (windows, T, K), or (tokens, K) of an expert."""
        y = F.linear(x, originals[name].weight).double()
        y_hat = quantized[name](x).double()
        bias = originals[name].bias
        error = y_hat - (y if bias is None else y + bias)
        windows = len(x) if x.ndim == 3 else 1
        signal, noise = (one.square().reshape(windows, -1).sum(1).tolist() for one in (y, error))
        sums[name] += zip(signal, noise, strict=True)

    few = tokens[: max(1, OUTPUT_TOKENS // tokens.shape[1])]
    device = next(model.parameters()).device
    with watch_inputs(model, quantized, see), torch.inference_mode():
        for batch in batches(few, device, OUTPUT_TOKENS):
            model(batch, use_cache=False)

    def told(pairs: list[tuple[float, float]]) -> OutputSqnr:
        each = [sqnr_db(*pair) for pair in pairs]
        whole = sqnr_db(*(math.fsum(part) for part in zip(*pairs, strict=True))) if pairs else math.inf
        return OutputSqnr(whole, (min(each), max(each)) if len(each) == len(few) else None)

    return {name: told(pairs) for name, pairs in sums.items()}


def _quantize_set(
    members: dict[str, tuple[nn.Linear, Scheme]], stats: dict[str, LayerStats] | None, hessian: Tensor | None
) -> Iterator[tuple[str, QuantLinear, LayerReport]]:
    """The members in order, with their reports; what they took together is shared out by their weights' sizes."""
    started = time.perf_counter()
    named = f"layer{'s' * (len(members) > 1)} {', '.join(repr(name) for name in members)}"
    try:
        statics = {
            name: static_qparams(scheme.activations, (stats or {}).get(name)) for name, (_, scheme) in members.items()
        }
        coded = _coded(list(members.values()), hessian, "the weight")
    except CholeskyError as error:
        raise CholeskyError(f"{named}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from error
    seconds = (time.perf_counter() - started) / sum(layer.weight.numel() for layer, _ in members.values())
    for (name, (layer, scheme)), qweight in zip(members.items(), coded, strict=True):
        quantized = _assembled(layer, scheme, statics[name], qweight)
        yield name, quantized, _layer_report(name, layer, scheme, qweight, hessian, seconds * layer.weight.numel())


def _layer_report(
    name: str, layer: nn.Linear, scheme: Scheme, qweight: QTensor | None, hessian: Tensor | None, seconds: float
) -> LayerReport:
    weight, w_hat = layer.weight.detach(), None if qweight is None else dequantize(qweight)
    report = LayerReport(
        name=name,
        shape=(layer.out_features, layer.in_features),
        scheme=str(scheme),
        bits_per_weight=qweight.bits_per_weight if qweight else float(FLOAT_BITS),
        held_bytes=qweight.held_bytes if qweight else layer.weight.nbytes,
        weight_sqnr_db=None if w_hat is None else tensor_error(weight, w_hat).sqnr_db,
        output_sqnr_db=None,
        seconds=seconds,
    )
    if not scheme.needs_hessian or hessian is None or w_hat is None or scheme.weights is None:
        return report
    rounded = fake_quantize(weight, scheme.weights)
    return replace(
        report,
        loss=gptq_loss(weight, w_hat, hessian),
        rtn_loss=gptq_loss(weight, rounded, hessian),
        damp=scheme.method.damp,
    )


def copy_with(model: nn.Module, replaced: dict[str, QuantLinear]) -> nn.Module:
    """A copy of the model's modules that shares its tensors, with the given modules in place of the old ones."""
    instead: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    instead |= {id(model.get_submodule(name)): module for name, module in replaced.items()}
    return copy.deepcopy(model, instead)
