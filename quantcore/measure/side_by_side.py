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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantcore.matmul.size import checkpoint_bytes
from quantcore.measure import evaluate
from quantcore.measure.scores import Comparison, Facts, Tally, comparison, log_probabilities, pool
from quantcore.model.held import Held, held
from quantcore.model.linears import by_block, linears
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.clock import Clock
from quantcore.pipeline.convert import in_order
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.parts import CALIBRATE, SOLVE, Refuse, Source, parts_of_plans, planned
from quantcore.pipeline.ranks import ranks
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
    model, labels, plans = held(source), labels or {name: name for name in plans}, dict(plans)
    inside = _share_inside(model)

    def on_the_way(share: float, doing: str) -> None:
        if progress:
            progress(inside * share, doing)

    clock, width = Clock(model.device), _batch_tokens(model)
    mine = ranks().share(tokens)
    floats, walks = BlockWalk(model, mine, width), {name: BlockWalk(model, mine, width) for name in plans}
    found: dict[str, dict[str, LayerReport]] = {name: {} for name in plans}
    quantize_s = dict.fromkeys(plans, 0.0)
    layers: Layers = {}
    behind: dict[str, nn.Module] = {}

    def leave_out(name: str, error: ValueError) -> None:
        for known in (plans, walks, found, quantize_s):
            known.pop(name)
        if refuse is not None:
            refuse(name, error)
        if not plans:
            raise error

    road = parts_of_plans(
        model,
        plans,
        tokens if calibration is None else calibration,
        measured=measured,
        labels=labels,
        progress=on_the_way,
        refuse=None if refuse is None else leave_out,
    )
    for together in road:
        for name, part in together.items():
            found[name] |= {report.name: report for report in part.reports}
            quantize_s[name] += part.seconds[CALIBRATE] + part.seconds[SOLVE]
            if part.name:
                with clock.piece(name):
                    walks[name].advance(part.module)
                continue
            behind[name], layers[name] = part.module, tuple(in_order(model.skeleton, found[name]))
            if so_far:
                so_far(None, dict(layers), dict(quantize_s))
        if part.name:
            floats.advance(part.original)
        del together, part
    sizes = {name: planned(model, plan)[1] for name, plan in plans.items()}
    kept = {name: Tally(size.bytes, size.bits_per_weight) for name, size in sizes.items()}
    reference = Tally()
    device = ranks().named(device_name(model.device))
    facts = Facts(tokens.numel(), checkpoint_bytes(model.skeleton), device, versions())

    def known(seen: int) -> Comparison:
        for name, spent in clock.seconds().items():
            kept[name].seconds += spent
        return comparison(reference, kept, facts._replace(tokens=seen * tokens.shape[1]))

    seen, done, told = 0, 0, -math.inf
    answers = {name: walk.answers(behind[name]) for name, walk in walks.items()}
    with torch.inference_mode():
        for batch, said in zip(floats.batches, floats.answers(model.around), strict=True):
            log_p = log_probabilities(said.logits)
            reference.add(log_p, log_p, batch, likeliest)
            for name in plans:
                with clock.piece(name):
                    kept[name].add(log_p, log_probabilities(next(answers[name]).logits), batch, likeliest)
                done += 1
                if progress:
                    share = done / (len(plans) * len(floats.batches))
                    progress(inside + (1 - inside) * share, f"{labels[name]}: reading the text")
            seen += len(batch)
            if so_far and seen < len(mine) and time.perf_counter() - told >= evaluate.SO_FAR_S:
                so_far(known(seen), layers, quantize_s)
                told = time.perf_counter()
    pool([reference, *kept.values()])
    return Walked(known(len(tokens)), layers, quantize_s)


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
