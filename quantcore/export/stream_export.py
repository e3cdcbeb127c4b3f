"""Write a model that does not fit into memory as a compressed-tensors checkpoint, one decoder block at a time.

    report = stream_export("some/folder", "W4A16", "out/some-w4")

The folder is the one that `export_checkpoint` would write, but for the cut into files: a file lives in memory until it
is full, so files are small here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantcore.export.checkpoint import (
    REPORT_FILE,
    STORED_TYPES,
    ExportReport,
    Part,
    _require_plain_linears,
    _rounding,
    _save_config,
    _save_generation_config,
    _stored_file,
    checkpoint_parts,
    require_space,
    write_shards,
)
from quantcore.export.new_folder import all_or_nothing, require_place
from quantcore.export.serving import serving
from quantcore.measure.store import model_hash, tokens_hash
from quantcore.model.linears import linears
from quantcore.model.machine import device_name, versions
from quantcore.model.streamed import StreamedModel
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import LayerReport
from quantcore.pipeline.streaming import planned, planned_bytes, stream_quantize
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

SHARD_BYTES = 256 * 10**6


def stream_export(
    source: StreamedModel | str,
    scheme: Scheme | Plan | str,
    folder: str | Path,
    calibration: Tensor | None = None,
    *,
    device: str | None = None,
    force: bool = False,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ExportReport:
    """Quantize a model block by block and write it to `folder`, with its tokenizer and generation config.

    Arguments and errors are `export_checkpoint`'s; a file of at most `shard_bytes` waits in memory until it is full.
    In the report, write_s is all the time in which nothing was quantized."""
    from quantcore.export.checkpoint_format import config_entry, configuration, group, require_exportable

    started = time.perf_counter()
    streamed = StreamedModel(source, device) if isinstance(source, str) else source
    plan = Plan.of(scheme)
    schemes = planned(streamed, plan)
    require_exportable(list(dict.fromkeys(schemes.values())))
    _require_plain_linears(streamed.skeleton, schemes)
    target = require_place(folder, streamed.id, force)
    require_space(target, planned_bytes(streamed, schemes))
    config = configuration(schemes, [name for name in linears(streamed.skeleton) if name not in schemes])
    alone = len(set(schemes.values())) == 1
    layouts = {name: str(group(one, ["Linear"], alone).format) for name, one in schemes.items()}
    dtype = stored_type(streamed) if dtype is None else dtype
    writing = _Writing(streamed, plan, calibration, layouts, dtype, progress)
    with all_or_nothing(target) as temporary:
        write_shards(writing.parts(), temporary, shard_bytes)
        streamed.tokenizer.save_pretrained(temporary)
        _save_generation_config(streamed.skeleton, temporary)
        report = ExportReport(
            folder=str(target),
            scheme=str(plan),
            format=str(config.format),
            dtype=str(dtype).removeprefix("torch."),
            scale_rounding=writing.scale_rounding,
            scale_rounding_limit=torch.finfo(dtype).eps / 2,
            files=tuple(_stored_file(path) for path in sorted(temporary.iterdir())),
            bytes=sum(path.stat().st_size for path in temporary.iterdir()),
            layers=tuple(writing.layers),
            model=streamed.id,
            revision=streamed.revision,
            model_hash=model_hash(cast(nn.Module, streamed)),
            calibration_tokens=None if calibration is None else calibration.numel(),
            calibration_hash=None if calibration is None else tokens_hash(calibration),
            serving=serving(str(target), schemes, streamed.context),
            quantize_s=writing.quantize_s,
            write_s=time.perf_counter() - started - writing.quantize_s,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            device=device_name(streamed.device),
            versions={**versions(), "compressed-tensors": metadata.version("compressed-tensors")},
        )
        (temporary / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2, default=str), encoding="utf-8")
        _save_config(streamed.skeleton, writing.around, config_entry(config), dtype, temporary)
    return report


def stored_type(streamed: StreamedModel) -> torch.dtype:
    """`export.stored_type` of the loaded model: the narrowest type that holds every parameter exactly. A tensor that
    its file keeps in that type is not read."""
    for dtype in STORED_TYPES[:-1]:
        if all(_holds(dtype, streamed, name) for name, _ in streamed.skeleton.named_parameters()):
            return dtype
    return STORED_TYPES[-1]


def _holds(dtype: torch.dtype, streamed: StreamedModel, name: str) -> bool:
    if streamed.file_dtype(name) == dtype:
        return True
    tensor = streamed.read(name)
    return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


class _Writing:
    """The checkpoint's parts as the writer asks for them, and what is noted of each before it is let go."""

    def __init__(
        self,
        streamed: StreamedModel,
        plan: Plan,
        calibration: Tensor | None,
        layouts: dict[str, str],
        dtype: torch.dtype,
        progress: Progress | None,
    ) -> None:
        self._parts = stream_quantize(streamed, plan, calibration, progress=progress)
        self._layouts, self._dtype = layouts, dtype
        self.layers: list[LayerReport] = []
        self.scale_rounding, self.quantize_s = 0.0, 0.0
        self.around: Any = None

    def parts(self) -> Iterator[Part]:
        started = time.perf_counter()
        for part in self._parts:
            self.quantize_s += time.perf_counter() - started
            self.layers += part.reports
            self.scale_rounding = max([self.scale_rounding, *(_rounding(q, self._dtype) for q in part.layers.values())])
            self.around = part.module
            yield from checkpoint_parts(part.root, self._layouts, self._dtype)
            started = time.perf_counter()
