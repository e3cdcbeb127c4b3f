"""Linears become QuantLinears, those that read one input together, and each says what it lost.

What a report tells is worked out on the device and read once, when a whole block is done: see `Made` and `reports_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.methods.codes import Problem, codes, codes_of_sets
from quantcore.methods.loss import output_loss
from quantcore.model.turned import turn_inputs, turn_of
from quantcore.numbers.affine import QParams, choose_qparams
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.numbers.distance import signal_and_noise, sqnr_db
from quantcore.numbers.qtensor import QTensor, dequantize, fake_quantize, qparams_for
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.calibration import LayerStats
from quantcore.pipeline.outputs import OutputSums
from quantcore.scheme.scheme import Scheme

NAMED = 3  # layers in a refusal


@dataclass(frozen=True)
class LayerReport:
    """One layer after quantization; or, with scheme `float` and a note that says why, a matrix that cannot be quantized
    here and stays as it is. `weight_sqnr_db` is None where the weight stayed float; `output_sqnr_db` compares
    the layer's output, float weight on float input against quantized on the same input, and is None without tokens;
    `output_sqnr_windows` is its least and largest over single windows, None where the input comes without windows (an
    expert's share of the tokens).

    `tokens`: how many of the calibration text reached it, None for a scheme that needs none; of an expert only those
    that the router gave it, unless the scheme says experts=all.

    Of methods that weigh errors with a Hessian: `loss` = sum over rows of e H e^T on the layer's calibration inputs,
    e = w - w_hat; `rtn_loss` what rounding to nearest would have had on the same inputs; `damp` its share of
    mean(diag(H))."""

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
    tokens: int | None = None


@dataclass
class Made:
    """A quantized layer and its report, whose `figures` (float64 scalars: signal and noise of the weight, loss,
    rtn_loss) and `output` sums the device may still be working on."""

    layer: QuantLinear
    report: LayerReport
    figures: dict[str, Tensor]
    output: OutputSums


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


def quantize_together(
    members: Mapping[str, tuple[nn.Linear, Scheme]],
    ranges: Mapping[str, LayerStats],
    hessian: Tensor | None,
    weighed: bool = True,
) -> dict[str, Made]:
    """Layers that read one input, whose X^T X is `hessian`; the name of each is in what is refused. `weighed`: with
    what the weights lost."""
    named = _named(members)
    try:
        statics = {name: static_qparams(scheme.activations, ranges.get(name)) for name, (_, scheme) in members.items()}
        coded = _coded(list(members.values()), hessian, "the weight")
    except ValueError as error:
        raise type(error)(f"{named}: {error}") from error
    return {
        name: made_of(name, layer, scheme, statics[name], qweight, _figures(layer, scheme, qweight, hessian, weighed))
        for (name, (layer, scheme)), qweight in zip(members.items(), coded, strict=True)
    }


def quantize_sets(
    sets: Sequence[tuple[Mapping[str, tuple[nn.Linear, Scheme]], Tensor, Tensor | None]],
    ranges: Mapping[str, LayerStats],
    weighed: bool = True,
) -> dict[str, Made]:
    """`quantize_together` of several sets of layers, each with a Hessian of its own, and its drift where that is known:
    experts, solved at once where the method can."""
    problems = [
        [
            Problem(layer.weight.detach(), scheme.weights, scheme.method, drift if scheme.needs_drift else None)
            for layer, scheme in members.values()
            if scheme.weights
        ]
        for members, _, drift in sets
    ]
    solved = codes_of_sets(
        [
            (mine, hessian, f"{_named(members)}: the weight")
            for mine, (members, hessian, _) in zip(problems, sets, strict=True)
        ]
    )
    found: dict[str, Made] = {}
    for (members, hessian, _), coded in zip(sets, solved, strict=True):
        for (name, (layer, scheme)), qweight in zip(members.items(), coded, strict=True):
            static = static_qparams(scheme.activations, ranges.get(name))
            found[name] = made_of(
                name, layer, scheme, static, qweight, _figures(layer, scheme, qweight, hessian, weighed)
            )
    return found


def _named(members: Mapping[str, object]) -> str:
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    return f"layer{'s' * (len(members) > 1)} {', '.join(repr(name) for name in list(members)[:NAMED])}{more}"


def made_of(
    name: str,
    layer: nn.Linear,
    scheme: Scheme,
    static: QParams | None,
    qweight: QTensor | None,
    figures: dict[str, Tensor],
) -> Made:
    """A layer whose codes are known: None where its weight stays float."""
    quantized = _assembled(layer, scheme, static, qweight)
    return Made(quantized, _report(name, layer, scheme, qweight), figures, OutputSums(quantized))


def reports_of(made: Iterable[Made], windows: int) -> list[LayerReport]:
    """The reports with their figures: here is waited for the device. `windows`: of the text on which outputs were
    compared; 0: they were not."""
    made = list(made)
    figures = [figure for one in made for figure in one.figures.values()]
    known = iter(torch.stack(figures).tolist() if figures else [])
    reports = [_filled(one.report, {name: next(known) for name in one.figures}) for one in made]
    if not windows:
        return reports
    outputs = [one.output.sqnr(windows) for one in made]
    return [
        replace(report, output_sqnr_db=whole, output_sqnr_windows=each)
        for report, (whole, each) in zip(reports, outputs, strict=True)
    ]


def counted(report: LayerReport, asked: Scheme, tokens: int, read: int) -> LayerReport:
    """The report of a layer that `tokens` of a text of `read` tokens reached; what is said where they were too few.

    Fewer tokens than columns leave X^T X singular: along the other directions only the damping speaks."""
    notes = report.notes
    columns = report.shape[-1]
    if tokens == 0:
        done = "rounded to nearest" if asked.needs_hessian else "its range is that of the block's other experts"
        notes += (f"no token of the calibration text reached it: {done}; read more text, or say experts=all",)
    elif asked.needs_hessian and tokens < min(columns, read):
        notes += (
            f"only {tokens} of {read} tokens reached it, fewer than its {columns} columns: the damping decides part of "
            "its codes; read more text, or say experts=all",
        )
    return replace(report, tokens=tokens, notes=notes)


def left_float_report(name: str, parameter: Tensor, why: str) -> LayerReport:
    """Of a matrix that stays as it is; `why`: half a sentence of `linears.why_float`."""
    return LayerReport(
        name=name,
        shape=tuple(parameter.shape),
        scheme="float",
        bits_per_weight=FLOAT_BITS,
        held_bytes=parameter.nbytes,
        weight_sqnr_db=None,
        output_sqnr_db=None,
        seconds=0.0,
        notes=(f"not quantized: {why}",),
    )


def static_qparams(spec: QuantSpec | None, stats: LayerStats | None) -> QParams | None:
    """Frozen qparams, shape (1, 1), from recorded ranges; None where the spec freezes nothing."""
    if spec is None or not spec.static:
        return None
    if stats is None:
        raise ValueError(
            "static activations need the range of what enters this layer, and there is none; give text that reaches it"
        )
    lo, hi = stats.ranges.range(spec)
    return choose_qparams(lo, hi, spec)


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
    if static is not None:
        static = static.to(weight.device)
    made = QuantLinear(qweight, bias, scheme.activations, static, float_weight=weight if qweight is None else None)
    if (turn := turn_of(layer)) is not None:
        turn_inputs(made, turn)
    return made


def _report(name: str, layer: nn.Linear, scheme: Scheme, qweight: QTensor | None) -> LayerReport:
    turn = turn_of(layer)
    matrices = 0 if turn is None else turn.held_bytes
    said = f"matrices of {matrices:,} bytes turn its inputs when the model runs, which its bits per weight leave out"
    return LayerReport(
        name=name,
        shape=(layer.out_features, layer.in_features),
        scheme=str(scheme),
        bits_per_weight=qweight.bits_per_weight if qweight else float(FLOAT_BITS),
        held_bytes=(qweight.held_bytes if qweight else layer.weight.nbytes) + matrices,
        weight_sqnr_db=None,
        output_sqnr_db=None,
        seconds=0.0,
        damp=scheme.method.damp,
        notes=(said,) if matrices else (),
    )


def _figures(
    layer: nn.Linear, scheme: Scheme, qweight: QTensor | None, hessian: Tensor | None, weighed: bool
) -> dict[str, Tensor]:
    if qweight is None or scheme.weights is None or not weighed:
        return {}
    weight, w_hat = layer.weight.detach(), dequantize(qweight)
    found = dict(zip(("signal", "noise"), signal_and_noise(weight, w_hat), strict=True))
    if scheme.needs_hessian and hessian is not None:
        found["loss"] = output_loss(weight, w_hat, hessian)
        power = hessian.diagonal().to(weight.device)
        nearest = qparams_for(weight, scheme.weights, power=power)
        found["rtn_loss"] = output_loss(weight, fake_quantize(weight, scheme.weights, nearest), hessian)
    return found


def _filled(report: LayerReport, figures: dict[str, float]) -> LayerReport:
    if not figures:
        return report
    weight_sqnr_db = sqnr_db(figures["signal"], figures["noise"])
    return replace(report, weight_sqnr_db=weight_sqnr_db, loss=figures.get("loss"), rtn_loss=figures.get("rtn_loss"))
