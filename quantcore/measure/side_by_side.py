"""Plans beside their float model, block by block: each block is read once and quantized under every plan, and all forms
of it take their own hidden states a block further. So a model of any size is compared under many plans in one walk.

    walked = compare_plans(loaded, {"W4A16": Plan.parse("W4A16")}, tokens, calibration)
    walked.comparison.reports["W4A16"].kl, walked.layers["W4A16"]

The figures are `compare`'s. Memory: one block in float and under every plan, the hidden states of the text once for
each, the logits of one batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantcore.matmul.size import checkpoint_bytes
from quantcore.measure import evaluate
from quantcore.measure.scores import Comparison, Facts, Tally, comparison, log_probabilities, pool
from quantcore.model.held import Held, held
from quantcore.model.layer_names import by_block
from quantcore.model.linears import linears
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.clock import Clock
from quantcore.pipeline.convert import in_order
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.parts import Refuse, Source, parts_of_plans, planned
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.road import CALIBRATE, SOLVE, Part
from quantcore.pipeline.treated import treated
from quantcore.scheme.plan import Plan

GPU_TOKENS = 4096  # a batch on a GPU, at most
LOGITS_SHARE = 0.1  # of a GPU's free memory, for one batch's logits and what is made of them
COPIES = 6  # of the logits in float32, which that is

Layers = dict[str, tuple[LayerReport, ...]]


class Walked(NamedTuple):
    """comparison: by the plans' names. layers: as `quantize_model` reports them. quantize_s: seconds for each plan."""

    comparison: Comparison
    layers: Layers
    quantize_s: dict[str, float]


SoFar = Callable[[Comparison | None, Layers, dict[str, float]], None]


def compare_plans(
    source: Source,
    plans: Mapping[str, Plan],
    tokens: Tensor,
    calibration: Tensor | None = None,
    *,
    measured: Tensor | None = None,
    labels: Mapping[str, str] | None = None,
    likeliest: int = 1,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
    refuse: Refuse | None = None,
) -> Walked:
    """A model and its quantized forms on the same windows.

    tokens       (windows, T), to evaluate on
    calibration  for static ranges and GPTQ; `tokens` where it is not given
    measured     text on which each layer's output error is measured; None: it is not
    labels       what progress and refusals call the plans, where not by their names
    likeliest    how many of each position's likeliest next tokens are kept
    so_far       called with a Walked's entries as far as they are known: layers of the plans that are through, and the
                 comparison on the windows that all have read, at most every SO_FAR_S; None before the first
    refuse       as `parts_of_plans` has it: the plan is left out of the answer
    Raises: what `parts` and `compare` refuse, with the plan's label; and where no plan is left."""
    evaluate.require_windows(tokens)
    if not plans:
        raise ValueError("there is no plan to compare; give at least one")
    model, learned = held(source), tokens if calibration is None else calibration
    starts = {name: treated(model, plan, learned) for name, plan in plans.items()}
    caches = {name: _caches(starts[name], plan, learned) for name, plan in plans.items() if plan.kv is not None}
    walk = _Walk(model, plans, starts, tokens, labels or {name: name for name in plans}, progress, so_far, caches)
    walk.through_the_blocks(learned, measured, refuse)
    return Walked(walk.read_the_text(likeliest), walk.layers, walk.quantize_s)


def _caches(model: Held, plan: Plan, calibration: Tensor) -> Callable[[], Any]:
    """Makes the empty caches through which a plan's blocks read, their static scales taken on the calibration text."""
    from quantcore.pipeline.cache import coded_cache  # transformers takes long to import
    from quantcore.pipeline.cache_ranges import calibrate_cache

    assert plan.kv is not None
    scales, kv = calibrate_cache(model, plan.kv, calibration), plan.kv
    return lambda: coded_cache(model.skeleton.config, kv, scales)


class _Walk:
    """The hidden states of a text under every plan, and what is known of each."""

    def __init__(
        self,
        model: Held,
        plans: Mapping[str, Plan],
        starts: Mapping[str, Held],
        tokens: Tensor,
        labels: Mapping[str, str],
        progress: Progress | None,
        so_far: SoFar | None,
        caches: Mapping[str, Callable[[], Any]],
    ) -> None:
        self._model, self._plans, self._labels, self._windows = model, dict(plans), labels, len(tokens)
        self._starts = dict(starts)  # the models under the plans' transforms
        self._progress, self._so_far = progress, so_far
        self._inside, self._clock, width = _share_inside(model), Clock(model.device), _batch_tokens(model)
        self._mine = ranks().share(tokens)
        self._floats = BlockWalk(model, self._mine, width)
        self._walks = {
            name: BlockWalk(starts[name], self._mine, width, caches[name] if name in caches else None) for name in plans
        }
        self._found: dict[str, dict[str, LayerReport]] = {name: {} for name in plans}
        self._behind: dict[str, nn.Module] = {}  # what follows the blocks
        self.layers: Layers = {}
        self.quantize_s = dict.fromkeys(plans, 0.0)

    def through_the_blocks(self, calibration: Tensor, measured: Tensor | None, refuse: Refuse | None) -> None:
        """Quantize each block under every plan and take all hidden states through it."""

        def on_the_way(share: float, doing: str) -> None:
            if self._progress:
                self._progress(self._inside * share, doing)

        def leave_out(name: str, error: ValueError) -> None:
            self._leave_out(name)
            if refuse is not None:
                refuse(name, error)
            if not self._plans:
                raise error

        road = parts_of_plans(
            self._model,
            self._plans,
            calibration,
            measured=measured,
            starts=self._starts,
            labels=self._labels,
            progress=on_the_way,
            refuse=None if refuse is None else leave_out,
        )
        for together in road:
            for name, part in together.items():
                self._pass(name, part)
            if part.name:
                self._floats.advance(part.original)
            del together, part

    def read_the_text(self, likeliest: int) -> Comparison:
        """All models' next tokens, batch by batch."""
        sizes = {name: planned(self._starts[name], plan)[1] for name, plan in self._plans.items()}
        kept = {name: Tally(size.bytes, size.bits_per_weight) for name, size in sizes.items()}
        reference, seen, done, told = Tally(), 0, 0, -math.inf
        answers = {name: walk.answers(self._behind[name]) for name, walk in self._walks.items()}
        with torch.inference_mode():
            for batch, said in zip(self._floats.batches, self._floats.answers(self._model.around), strict=True):
                log_p = log_probabilities(said.logits)
                reference.add(log_p, log_p, batch, likeliest)
                for name in self._plans:
                    with self._clock.piece(name):
                        kept[name].add(log_p, log_probabilities(next(answers[name]).logits), batch, likeliest)
                    done += 1
                    self._tell_reading(name, done / (len(self._plans) * len(self._floats.batches)))
                seen += len(batch)
                if self._so_far and seen < len(self._mine) and time.perf_counter() - told >= evaluate.SO_FAR_S:
                    self._so_far(self._known(reference, kept, seen), self.layers, self.quantize_s)
                    told = time.perf_counter()
        pool([reference, *kept.values()])
        return self._known(reference, kept, self._windows)

    def _pass(self, name: str, part: Part) -> None:
        """Take note of a plan's part; a block takes its hidden states further."""
        self._found[name] |= {report.name: report for report in part.reports}
        self.quantize_s[name] += part.seconds[CALIBRATE] + part.seconds[SOLVE]
        if part.name:
            with self._clock.piece(name):
                self._walks[name].advance(part.module)
            return
        self._behind[name] = part.module
        self.layers[name] = tuple(in_order(self._starts[name].skeleton, self._found[name]))
        if self._so_far:
            self._so_far(None, dict(self.layers), dict(self.quantize_s))

    def _leave_out(self, name: str) -> None:
        for known in (self._plans, self._starts, self._walks, self._found, self.quantize_s):
            known.pop(name)

    def _tell_reading(self, name: str, share: float) -> None:
        if self._progress:
            self._progress(self._inside + (1 - self._inside) * share, f"{self._labels[name]}: reading the text")

    def _known(self, reference: Tally, kept: dict[str, Tally], seen: int) -> Comparison:
        """The figures on the first `seen` windows."""
        for name, spent in self._clock.seconds().items():
            kept[name].seconds += spent
        device = ranks().named(device_name(self._model.device))
        length = self._mine.shape[1]
        return comparison(
            reference, kept, Facts(seen * length, checkpoint_bytes(self._model.skeleton), device, versions())
        )


def _share_inside(model: Held) -> float:
    """The share of a model's work that is done inside its blocks."""
    sizes = {name: layer.weight.numel() for name, layer in linears(model.skeleton).items()}
    outside = sum(sizes[name] for name in by_block(model.blocks, sizes)[""])
    return 1 - outside / sum(sizes.values())


def _batch_tokens(model: Held) -> int:
    """How many tokens are read at once: on a GPU more than `compare` does, since its kernels fill it better then."""
    if model.device.type != "cuda":
        return evaluate.BATCH_TOKENS
    vocabulary = int(getattr(model.skeleton.config.get_text_config(), "vocab_size", 1))
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, min(GPU_TOKENS, int(LOGITS_SHARE * free) // (4 * COPIES * vocabulary)))
