"""Who is measured in `end_to_end`, each in a process of its own: from a model folder to a written checkpoint.

A contestant is a function (job) -> {phase: seconds}: it reads job.model, calibrates, solves and writes job.out. Phases
that ours names in its ExportReport are taken from there, whatever they are called.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Phases = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What all contestants get. `windows` x `length` calibration tokens, drawn with one seed from the vocabulary."""

    model: str
    out: str
    device: str
    scheme: str
    windows: int
    length: int
    vocabulary: int

    def tokens(self, windows: int | None = None, length: int | None = None, seed: int = 1) -> Tensor:
        size = (windows or self.windows, length or self.length)
        return torch.randint(0, self.vocabulary, size, generator=torch.Generator().manual_seed(seed))

    @property
    def calibration(self) -> Tensor | None:
        """Those tokens; None for a scheme that asks for no text."""
        from quantcore.scheme.plan import Plan

        return self.tokens() if Plan.of(self.scheme).needs_text else None


def ours_whole(job: Job) -> Phases:
    from quantcore.export.checkpoint import export_checkpoint
    from quantcore.model.loading import load_model

    started = time.perf_counter()
    loaded = load_model(job.model, job.device)
    read_s = time.perf_counter() - started
    report = export_checkpoint(loaded, job.scheme, job.out, job.calibration)
    return {**_phases(report), "read_s": read_s}


def ours_streamed(job: Job) -> Phases:
    from quantcore.export.checkpoint import export_checkpoint
    from quantcore.model.streamed import StreamedModel

    source, calibration = StreamedModel(job.model, job.device), job.calibration
    return _phases(export_checkpoint(source, job.scheme, job.out, calibration))


def _phases(report: Any) -> Phases:
    """Every figure of an ExportReport that is in seconds."""
    names = [field.name for field in dataclasses.fields(report) if field.name.endswith("_s")]
    return {name: getattr(report, name) for name in names}


def llm_compressor(job: Job, **options: Any) -> Phases:
    """`oneshot` as its documentation runs it; `options` are oneshot's. Reading and writing are timed apart, solving by
    the calls of its GPTQ; what is left of oneshot's time is calibration. A scheme with transforms is asked for in the
    recipe that we write for it."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    solving = [0.0]

    def timed(modifier: Any, modules: Any) -> None:
        torch.cuda.synchronize()
        started = time.perf_counter()
        compress(modifier, modules)
        torch.cuda.synchronize()
        solving[0] += time.perf_counter() - started

    compress = GPTQModifier.compress_module_list
    GPTQModifier.compress_module_list = timed
    preset, _, method = job.scheme.partition(",")
    how: dict[str, Any] = {"targets": "Linear", "scheme": preset, "ignore": ["lm_head"]}
    recipe: Any = GPTQModifier(**how, actorder=None) if method == "gptq" else QuantizationModifier(**how)
    if method not in ("", "gptq"):
        from quantcore.export.recipe import recipe as written

        recipe = f"{job.out}.yaml"
        Path(recipe).write_text(written(job.scheme), encoding="utf-8")
    tokens = job.tokens()
    batch = int(options.pop("batch_size", 1))
    # a list does for a Dataset
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in tokens]
    try:
        started = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto")
        read_s, started = time.perf_counter() - started, time.perf_counter()
        oneshot(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(job.model),
            dataset=DataLoader(rows, batch_size=batch) if job.calibration is not None else None,
            recipe=recipe,
            batch_size=batch,
            max_seq_length=job.length,
            num_calibration_samples=len(rows),
            **options,
        )
        torch.cuda.synchronize()
        oneshot_s, started = time.perf_counter() - started, time.perf_counter()
        model.save_pretrained(job.out, save_compressed=True)
        write_s = time.perf_counter() - started
    finally:
        GPTQModifier.compress_module_list = compress
    return {"read_s": read_s, "calibrate_s": oneshot_s - solving[0], "solve_s": solving[0], "write_s": write_s}


def llm_compressor_tuned(job: Job) -> Phases:
    """The same with what its options offer for speed: eight windows a batch, hidden states kept on the device."""
    return llm_compressor(job, batch_size=8, sequential_offload_device=job.device, sequential_prefetch=True)


def llm_compressor_routed(job: Job) -> Phases:
    """The same where each expert of a mixture learns from the tokens that the router gives it, as ours does; by default
    it lets all of them through each."""
    return llm_compressor(job, moe_calibrate_all_experts=False)


DUEL = ("W4A16", "W8A16", "W4A16_ASYM", "W8A8", "W4A16,gptq", "FP8_DYNAMIC")
EVALUATED, LEARNED = (32, 512), (128, 512)  # windows x tokens


def duel_of_six(job: Job) -> Phases:
    """Six schemes on the whole model, nothing of it known before; `scheme` is not asked. Small models read less."""
    from quantcore.measure.duel import duel
    from quantcore.measure.store import Store
    from quantcore.model.loading import load_model

    started = time.perf_counter()
    loaded = load_model(job.model, job.device)
    read_s, started = time.perf_counter() - started, time.perf_counter()
    length = min(EVALUATED[1], job.length)
    windows = [min(sizes[0], job.windows) for sizes in (EVALUATED, LEARNED)]
    tokens, calibration = (job.tokens(count, length, seed) for count, seed in zip(windows, (2, 3), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        found = duel(loaded, DUEL, tokens, calibration, Store(Path(folder) / "store.sqlite"))
    return {
        "read_s": read_s,
        "duel_s": time.perf_counter() - started,
        "quantize_s": found.quantize_s,
        "evaluate_s": {name: report.seconds for name, report in found.reports.items()},
        "kl": {name: report.kl for name, report in found.reports.items()},
        "tokens": tokens.numel(),
    }


CONTESTANTS: dict[str, Callable[[Job], Phases]] = {
    "ours": ours_whole,
    "ours streamed": ours_streamed,
    "llm-compressor": llm_compressor,
    "llm-compressor tuned": llm_compressor_tuned,
    "llm-compressor routed": llm_compressor_routed,
    "duel": duel_of_six,
}
