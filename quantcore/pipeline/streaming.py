"""Quantize and evaluate a model that does not fit into memory, one decoder block at a time.

    for part in stream_quantize("some/folder", "W4A16,gptq", tokens): ...        # part.layers: {name: QuantLinear}
    report = stream_evaluate("some/folder", "W4A16", tokens)
    walked = stream_compare("some/folder", "W4A16", tokens, likeliest=5)         # and every token's scores, every layer

Peak memory, whatever the depth: what lies outside of the blocks, about two blocks (the float one and its quantized
form), the Hessians of one block for GPTQ, and hidden states, tokens x hidden numbers, which wait on the CPU between two
blocks. What is freed goes back to the system behind every block.

The codes are `quantize_model`'s and the figures `compare`'s: the same functions work on the same numbers in the same
order. What a block is called with (masks, positions) comes from the model's own forward pass, run with every other
block as a `BlockPlace`, so blocks of several kinds each get their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import checkpoint_bytes, model_size
from quantcore.measure.evaluate import BATCH_TOKENS, Comparison, ModelReport, compare
from quantcore.model.linears import batches, left_float, linear_shapes, linears
from quantcore.model.streamed import BlockPlace, StreamedModel
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.numbers.observers import RangeRecorder
from quantcore.pipeline.blocks import BlockWalk, Enough, _Reached
from quantcore.pipeline.calibration import LayerStats, Progress, momenta_of, watch_inputs
from quantcore.pipeline.convert import LayerReport, _hessians, _left_float, _quantize_set, copy_with
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme, coded_under

ALONE = "quantized"  # the name of a walk's one candidate
CALIBRATION_BATCH_TOKENS = 4096  # `batches`' own, which calibrate and BlockWalk use: Hessians are summed in this order


@dataclass(frozen=True)
class QuantizedPart:
    """A decoder block, or (name "") what lies outside of the blocks.

    original   float, on the device until the next part is asked for
    module     its quantized form, which shares what stays float; `original` itself where all stays float
    root       a module that holds `module` under its full name
    layers     every QuantLinear of it by full name
    reports    as `quantize_model` gives them, without output_sqnr_db"""

    name: str
    original: nn.Module
    module: nn.Module
    root: nn.Module
    layers: dict[str, QuantLinear]
    reports: tuple[LayerReport, ...]


def stream_quantize(
    source: StreamedModel | str,
    scheme: Scheme | Plan | str,
    tokens: Tensor | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Iterator[QuantizedPart]:
    """The blocks of a model in order, each quantized, then the part outside of them; nothing of a part is kept here
    once the next is asked for. GPTQ is sequential, as in `quantize_model`; round to nearest runs nothing.

    tokens   calibration text (windows, T), for static ranges and GPTQ
    Raises: ValueError (CholeskyError), what `StreamedModel` and `quantize_model` refuse; before any work
    where it can be known before."""
    streamed = _opened(source, device)
    plan = Plan.of(scheme)
    schemes = planned(streamed, plan)
    if tokens is None and any(one.needs_text for one in schemes.values()):
        raise ValueError(f"{plan} needs calibration text, for GPTQ's Hessians or frozen ranges; give tokens=")
    return _parts(streamed, plan, schemes, tokens, progress)


def planned(streamed: StreamedModel, plan: Plan) -> dict[str, Scheme]:
    """The scheme of every Linear that the plan quantizes. Raises: ValueError for a plan that does not fit the model."""
    layers = linears(streamed.skeleton)
    plan.require_layers(layers)
    schemes = {name: found for name in layers if (found := plan.scheme_for(name)) is not None}
    if not schemes and not plan.is_float:
        raise ValueError(f"{plan} skips every Linear of the model; shorten skip=")
    planned_bytes(streamed, schemes)
    return schemes


def planned_bytes(streamed: StreamedModel, schemes: dict[str, Scheme]) -> int:
    """`checkpoint_bytes` of the quantized model, before it is made: codes, scales and zero points of the layers, 16
    bits for every other parameter, tied ones once. Raises: ValueError for a tile that does not divide a layer."""
    return model_size(streamed.skeleton, coded_under(linear_shapes(streamed.skeleton), schemes)).bytes


def stream_evaluate(
    source: StreamedModel | str,
    scheme: Scheme | Plan | str,
    tokens: Tensor,
    calibration: Tensor | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """`compare` of a model with its quantized form; the arguments are `stream_compare`'s."""
    walked = stream_compare(source, scheme, tokens, calibration, device, progress)
    return replace(walked.comparison.reports[ALONE], seconds=walked.evaluate_s)


class Walked(NamedTuple):
    """comparison: its one candidate is called ALONE. layers: as `quantize_model` reports them, without output_sqnr_db.
    Seconds by what they were spent on."""

    comparison: Comparison
    layers: tuple[LayerReport, ...]
    quantize_s: float
    evaluate_s: float


def stream_compare(
    source: StreamedModel | str,
    scheme: Scheme | Plan | str,
    tokens: Tensor,
    calibration: Tensor | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    likeliest: int = 1,
) -> Walked:
    """`compare` of a model with its quantized form in one walk: each block is read once, quantized, and both forms of
    it take their own hidden states a block further.

    tokens       (windows, T), to evaluate on; their hidden states wait twice on the CPU
    calibration  for static ranges and GPTQ; `tokens` where it is not given, as in `quantize_model`
    Raises: what `stream_quantize` and `compare` refuse."""
    if tokens.shape[1] < 2:
        raise ValueError(f"windows of {tokens.shape[1]} token predict nothing; use at least two tokens")
    streamed = _opened(source, device)
    schemes = planned(streamed, Plan.of(scheme))
    calibration = tokens if calibration is None else calibration
    floats, quants = (HiddenWalk(streamed, tokens, BATCH_TOKENS) for _ in range(2))
    reports: list[LayerReport] = []
    found: Comparison | None = None
    begun, evaluate_s = time.perf_counter(), 0.0
    for part in stream_quantize(streamed, scheme, calibration, progress=progress):
        reports += part.reports
        started = time.perf_counter()
        if part.name:
            floats.advance(part.original)
            quants.advance(part.module)
        else:
            quantized = {ALONE: _Answers(part.module, quants)}
            found = compare(_Answers(part.original, floats), quantized, tokens, likeliest=likeliest)
        evaluate_s += time.perf_counter() - started
    assert found is not None
    coded = [one for one in reports if one.weight_sqnr_db is not None]
    numbers = sum(math.prod(one.shape) for one in coded)
    report = replace(
        found.reports[ALONE],
        float_bytes=checkpoint_bytes(streamed.skeleton),
        bytes=planned_bytes(streamed, schemes),
        bits_per_weight=sum(one.bits_per_weight * math.prod(one.shape) for one in coded) / numbers
        if numbers
        else float(FLOAT_BITS),
    )
    found = Comparison(found.float_scores, found.scores, {ALONE: report})
    return Walked(found, tuple(reports), time.perf_counter() - begun - evaluate_s, evaluate_s)


class HiddenWalk(BlockWalk):
    """The hidden states that enter the next block, batch by batch, on the CPU: a BlockWalk whose model is not there.

    A block is run by the model's forward pass in which only its own place is filled."""

    def __init__(self, streamed: StreamedModel, tokens: Tensor, tokens_a_batch: int = CALIBRATION_BATCH_TOKENS) -> None:
        self._model, self._device = streamed.around, streamed.device
        self._places = [cast(BlockPlace, self._model.get_submodule(name)) for name in streamed.blocks]
        self._batches = list(batches(tokens, torch.device("cpu"), tokens_a_batch))
        self._states: list[Tensor | None] = [None] * len(self._batches)
        self._next = 0

    def run(self, block: nn.Module, tick: Callable[[float], None] | None = None) -> None:
        for index in range(len(self._batches)):
            with suppress(Enough):
                self._output(block, index)
            if tick:
                tick((index + 1) / len(self._batches))

    def advance(self, block: nn.Module) -> None:
        for index in range(len(self._batches)):
            out = self._output(block, index)
            hidden = out[0] if isinstance(out, tuple) else out
            self._states[index] = hidden.cpu()
            for place in self._places:
                place.extra = len(out) - 1 if isinstance(out, tuple) else None
        self._next += 1

    def finish(self, model: nn.Module) -> None:
        """Run what comes behind the last block over every batch, for hooks."""
        for _ in self.answers(model):
            pass

    def answers(self, model: nn.Module) -> Iterator[Any]:
        """What the model says of each batch, behind the last block; `model` is `around`, or its quantized form."""
        last = [module for module in model.modules() if isinstance(module, BlockPlace)][-1]
        last.extra = self._places[-1].extra
        with torch.inference_mode():
            for batch, hidden in zip(self._batches, self._states, strict=True):
                assert hidden is not None
                last.run = _returning(last.returned(hidden.to(self._device)))
                try:
                    said = model(batch.to(self._device), use_cache=False)
                finally:
                    last.run = None
                yield said

    def _output(self, block: nn.Module, index: int) -> Any:
        place, outputs = self._places[self._next], []

        def run(*args: Any, **kwargs: Any) -> Any:
            hidden = self._states[index]
            if hidden is not None and args:
                args = (hidden.to(self._device), *args[1:])
            elif hidden is not None:
                kwargs = kwargs | {"hidden_states": hidden.to(self._device)}
            outputs.append(block(*args, **kwargs))
            raise _Reached

        place.run = run
        try:
            with torch.inference_mode():
                self._model(self._batches[index].to(self._device), use_cache=False)
        except _Reached:
            pass
        finally:
            place.run = None
        return outputs[0]


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


class _Answers(nn.Module):
    """A model for `compare`, which asks for the batches of a walk in their order."""

    def __init__(self, model: nn.Module, walk: HiddenWalk) -> None:
        super().__init__()
        self.model = model
        self._answers = walk.answers(model)

    def forward(self, tokens: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=next(self._answers).logits)


def _opened(source: StreamedModel | str, device: str | None) -> StreamedModel:
    return StreamedModel(source, device) if isinstance(source, str) else source


def _parts(
    streamed: StreamedModel, plan: Plan, schemes: dict[str, Scheme], tokens: Tensor | None, progress: Progress | None
) -> Iterator[QuantizedPart]:
    inside = {block: [name for name in schemes if name.startswith(f"{block}.")] for block in streamed.blocks}
    outside = [name for name in schemes if not any(name in names for names in inside.values())]
    inputs = _Inputs(streamed, schemes, tokens)
    done = 0

    def part_of(name: str, original: nn.Module, names: list[str], seen: _Seen) -> QuantizedPart:
        nonlocal done
        root = _under(name, original)
        layers = linears(root)
        found: dict[str, QuantLinear] = {}
        reports: dict[str, LayerReport] = {}
        by_gptq = [one for _, together in seen.hessians for one in together]
        for hessian, together in [*seen.hessians, *((None, [one]) for one in names if one not in by_gptq)]:
            members = {one: (layers[one], schemes[one]) for one in together}
            for one, quantized, report in _quantize_set(members, seen.ranges, hessian):
                found[one], reports[one] = quantized, report
                done += 1
                if progress:
                    progress(done / len(schemes), one)
        rest = [_left_float(key, parameter) for key, parameter in left_float(root).items()] if schemes else []
        made = copy_with(root, found) if found else root
        return QuantizedPart(
            name, original, made.get_submodule(name), made, found, (*(reports[one] for one in names), *rest)
        )

    for name, names in inside.items():
        with streamed.block(name) as block:
            part = part_of(name, block, names, inputs.of_block(name, block, names))
            yield part
            if outside or name != streamed.blocks[-1]:
                inputs.advance(block, part.module)
            del part
    yield part_of("", streamed.around, outside, inputs.of_around(outside))


def _under(name: str, module: nn.Module) -> nn.Module:
    """A module that holds `module` under its full name and nothing else; the module itself where it has none."""
    for part in reversed(name.split(".") if name else []):
        holder = nn.Module()
        holder.add_module(part, module)
        module = holder
    return module


class _Seen(NamedTuple):
    """Recorded ranges by layer, and Hessians, each with the layers that read its inputs."""

    ranges: dict[str, LayerStats]
    hessians: list[tuple[Tensor, list[str]]]


class _Inputs:
    """What is recorded of the layers' inputs, part by part: ranges behind the float blocks where activations are
    static, Hessians behind the quantized ones where GPTQ places the codes. Each text waits at its own place."""

    def __init__(self, streamed: StreamedModel, schemes: dict[str, Scheme], tokens: Tensor | None) -> None:
        self._around, self._schemes = streamed.around, schemes
        self._by_gptq = {name for name, one in schemes.items() if one.needs_hessian}
        self._static = {name for name, one in schemes.items() if one.needs_ranges}
        self._floats = HiddenWalk(streamed, tokens) if self._static and tokens is not None else None
        self._quants = HiddenWalk(streamed, tokens) if self._by_gptq and tokens is not None else None

    def of_block(self, name: str, block: nn.Module, names: list[str]) -> _Seen:
        static, by_gptq = self._split(names)
        ranges = self._recorded(block, f"{name}.", static, self._floats.run) if self._floats else {}
        return _Seen(ranges, _hessians(block, name, by_gptq, self._quants) if self._quants else [])

    def of_around(self, names: list[str]) -> _Seen:
        static, by_gptq = self._split(names)
        ranges = self._recorded(self._around, "", static, self._floats.finish) if self._floats else {}
        if self._quants is None:
            return _Seen(ranges, [])
        seen = self._recorded(self._around, "", by_gptq, self._quants.finish, hessian=True)
        return _Seen(ranges, [(one.hessian, [name]) for name, one in seen.items() if one.hessian is not None])

    def advance(self, block: nn.Module, quantized: nn.Module) -> None:
        if self._floats:
            self._floats.advance(block)
        if self._quants:
            self._quants.advance(quantized)

    def _split(self, names: list[str]) -> tuple[list[str], list[str]]:
        return [name for name in names if name in self._static], [name for name in names if name in self._by_gptq]

    def _recorded(
        self,
        module: nn.Module,
        prefix: str,
        names: list[str],
        run: Callable[[nn.Module], None],
        hessian: bool = False,
    ) -> dict[str, LayerStats]:
        """LayerStats of the named layers of a module while `run(module)` lets the text through it."""
        stats = {name: LayerStats(ranges=RangeRecorder(momenta_of(self._schemes[name]))) for name in names}

        def see(name: str, x: Tensor) -> None:
            stats[f"{prefix}{name}"].update(x, hessian)

        if names:
            with watch_inputs(module, [name.removeprefix(prefix) for name in names], see):
                run(module)
        return stats
