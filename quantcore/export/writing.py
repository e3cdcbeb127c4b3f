"""A checkpoint under way: parts come in, are packed and written, and what remains is a whole folder, or none.

    with Writing(model, plan, schemes, folder, ...) as writing:
        writing.add(module)                 what it stores, its codes packed
        report = writing.finish(calibration)

All is written into a hidden folder beside the target, config.json last, and the hidden folder then takes the target's
name: whatever ends the export earlier leaves no folder of that name, or the one that was there before. Beside a GPU
threads hash, pack and write while it works on.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.export.beside import Beside
from quantcore.export.companions import save_companions
from quantcore.export.experts import experts_in, fused_on_the_hub, require_readable
from quantcore.export.export_report import REPORT_FILE, ExportReport
from quantcore.export.new_folder import all_or_nothing, require_place
from quantcore.export.promise import promise
from quantcore.export.shards import Shards, StoredFile, shard_bytes_of
from quantcore.export.tensors import (
    checkpoint_parts,
    require_plain_linears,
    require_scales,
    scale_rounding,
    stored_type,
)
from quantcore.export.turned import CONFIG as TURNS
from quantcore.export.turned import transform_entry
from quantcore.export.vllm import Serving, serving
from quantcore.matmul.size import quantized_linears
from quantcore.measure.store import model_hash, tokens_hash
from quantcore.methods.transforms.turn import Turn
from quantcore.model.held import Held
from quantcore.model.layer_names import block_of
from quantcore.model.linears import linear_shapes
from quantcore.model.machine import device_name, versions
from quantcore.model.mixture import known_mixture
from quantcore.model.places import holding
from quantcore.model.turned import turn_of
from quantcore.model.wholeness import partly
from quantcore.pipeline.convert import in_order
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.road import CALIBRATE, READ, SOLVE, Part
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

CONFIG = "config.json"
WRITERS = 4  # threads, beside a GPU
WAITING_PARTS = 2  # blocks that may wait to be packed


class Writing:
    """A checkpoint under way: a context that leaves a whole folder, or none."""

    def __init__(
        self,
        model: Held,
        plan: Plan,
        schemes: Mapping[str, Scheme],
        folder: str | Path,
        force: bool,
        dtype: torch.dtype | None,
        shard_bytes: int | None,
        reader: str,
    ) -> None:
        """Raises: ValueError for a place or layers that cannot be, and a disk without room."""
        from quantcore.export.checkpoint_format import formats
        from quantcore.export.forms import loadable
        from quantcore.export.trial import Ours, why_not_tried

        self._model, self._plan, self._schemes = model, plan, schemes
        require_plain_linears(model.skeleton, schemes)
        if reader == "transformers":
            require_readable(model.skeleton, schemes, formats(schemes))
        self._target = require_place(folder, model.id, force)
        self._dtype = stored_type(model, schemes) if dtype is None else dtype
        require_scales(model, schemes, self._dtype)
        promised = promise(model.skeleton, plan, self._dtype).bytes
        require_space(self._target, promised)
        self._shard_bytes = shard_bytes or shard_bytes_of(promised)
        self._form = loadable(model.skeleton, schemes, self._dtype, reader, plan.kv)
        self._reader = reader
        self._seconds = dict.fromkeys((READ, CALIBRATE, SOLVE), 0.0)
        self._rounding = self._write_s = 0.0
        self._hashed: dict[str, str] = {}
        self._is_hashed = False
        self._layers: dict[str, LayerReport] = {}
        self._turns: dict[str, Turn] = {}
        self._why_not_tried = why_not_tried(model)
        self._ours = None if self._why_not_tried or reader != "transformers" else Ours(model, self._dtype)

    def __enter__(self) -> Writing:
        on_gpu = self._model.device.type == "cuda"
        self._stream = torch.cuda.Stream(self._model.device) if on_gpu else None  # type: ignore[no-untyped-call]
        with ExitStack() as stack:
            self._folder = stack.enter_context(all_or_nothing(self._target))
            self._hashing = stack.enter_context(Beside(2 if on_gpu else 0, 2))
            self._packing = stack.enter_context(Beside(1 if on_gpu else 0, WAITING_PARTS))
            writers = stack.enter_context(Beside(WRITERS if on_gpu else 0, WRITERS))
            self._shards = Shards(self._folder, self._shard_bytes, writers)
            self._stack = stack.pop_all()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, module: nn.Module, leave: Collection[str] = ()) -> None:
        """What a module stores, without the layers to `leave`. On a GPU it is packed on a stream of its own, behind all
        that was launched by now."""
        started = time.perf_counter()
        turns = {name: turn_of(layer) for name, layer in quantized_linears(module).items()}
        self._turns |= {name: turn for name, turn in turns.items() if turn is not None}
        if self._stream is None:
            self._pack(module, leave)
        else:
            ready = torch.cuda.current_stream(self._model.device).record_event()
            self._packing.do(lambda: self._pack(module, leave, ready))
        self._write_s += time.perf_counter() - started

    def add_part(self, part: Part) -> None:
        """A block; of what lies around the blocks its quantized layers, as the rest does not depend on them. The model
        is hashed from the first block on, beside a GPU: before, it would hold up the reading of that block."""
        if self._stream is not None:
            self._hash()
        self._layers |= {report.name: report for report in part.reports}
        for phase, spent in part.seconds.items():
            self._seconds[phase] += spent
        if self._ours is not None:
            self._ours.see(part.name, part.module)
        self.add(part.root if part.name else holding(part.layers))

    def add_cache(self, model: Held, calibration: Tensor | None) -> None:
        """The frozen scales of what `model` hands to its cache, where the plan has any."""
        from quantcore.export.cached import rounding, scale_tensors
        from quantcore.export.opening import named
        from quantcore.pipeline.cache_ranges import calibrate_cache

        if (kv := self._plan.kv) is None:
            return
        started = time.perf_counter()
        scales = calibrate_cache(model, kv, calibration)
        self._seconds[CALIBRATE] += time.perf_counter() - started
        tensors = scale_tensors(model.skeleton, kv, scales, self._dtype)
        self._rounding = max(self._rounding, rounding(tensors, scales))
        self._packing.do(lambda: self._shards.add("", named(self._model.skeleton, tensors)))

    def finish(self, calibration: Tensor | None) -> ExportReport:
        started, model = time.perf_counter(), self._model
        self._packing.finish()
        _, stored = self._shards.finish()
        save_companions(model, self._folder)
        known = {file.name: file for file in stored}
        files = [known.get(path.name) or StoredFile.of(path) for path in sorted(self._folder.iterdir())]
        self._hash()
        self._hashing.finish()
        write_s = self._write_s + time.perf_counter() - started
        quantize_s = time.perf_counter() - self._started - write_s
        apart, untried = self._require_read()
        report = ExportReport(
            folder=str(self._target),
            scheme=str(self._plan),
            format=self._form.format,
            dtype=str(self._dtype).removeprefix("torch."),
            scale_rounding=self._rounding,
            scale_rounding_limit=torch.finfo(self._dtype).eps / 2,
            files=tuple(files),
            bytes=sum(file.bytes for file in files),
            layers=tuple(in_order(model.skeleton, self._layers)),
            model=model.id,
            revision=self._hashed["revision"],
            model_hash=self._hashed["tensors"],
            calibration_tokens=None if calibration is None else calibration.numel(),
            calibration_hash=None if calibration is None else tokens_hash(calibration),
            serving=self._serving(str(self._target)),
            logits_apart=apart,
            notes=(*self._form.notes, *filter(None, [partly(model.skeleton), untried])),
            quantize_s=quantize_s,
            write_s=write_s,
            read_s=self._seconds[READ],
            calibrate_s=self._seconds[CALIBRATE],
            solve_s=self._seconds[SOLVE],
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            device=ranks().named(device_name(model.device)),
            versions={**versions(), "compressed-tensors": metadata.version("compressed-tensors")},
        )
        here = replace(report, folder=self._target.name, serving=self._serving(self._target.name))
        (self._folder / REPORT_FILE).write_text(json.dumps(asdict(here), indent=2, default=str), encoding="utf-8")
        if self._turns:
            from quantcore.export.forms import targets_in

            targets_of = targets_in(model.skeleton, list(self._turns))
            self._form.config.quantization_config[TURNS] = transform_entry(self._turns, targets_of)
        self._form.config.save_pretrained(self._folder)
        return report

    def _require_read(self) -> tuple[float | None, str | None]:
        """How far transformers' logits are from ours, or why that was not tried. Raises: ValueError for files that it
        does not load, or not as they are meant."""
        from quantcore.export.opening import forms_of, of_files, why_not
        from quantcore.export.trial import MOST_APART, logits_apart

        if self._reader != "transformers":
            return None, None
        written = of_files(self._folder)
        apart: float | str = self._why_not_tried or ""
        asked = forms_of(written) == self._form.opened  # of these very names and shapes, before the work
        problem = None if asked else why_not(self._model.skeleton, self._form.config, written)
        if problem is None and self._ours is not None:
            self._form.config.save_pretrained(self._folder)
            try:
                apart = logits_apart(self._model, self._ours, self._folder, self._form.runs_in)
            except ValueError as error:
                problem = str(error)
            (self._folder / CONFIG).unlink()  # it is the last file to be written
            if not isinstance(apart, str) and not apart <= MOST_APART:
                problem = f"its logits are {apart:.2g} of their size away from ours"
        if problem is not None:
            raise ValueError(
                f"what was written is not what transformers loads: {problem}; nothing is left of it, and the fault is "
                "this lab's: report it with the model's config.json"
            )
        if isinstance(apart, str):
            return None, f"transformers was not asked for its logits: {apart}"
        return apart, None

    def _serving(self, folder: str) -> Serving:
        skeleton = self._model.skeleton
        places, shapes = list(experts_in(skeleton)), linear_shapes(skeleton)
        fused, mixture = fused_on_the_hub(skeleton), known_mixture(skeleton)
        return serving(folder, self._schemes, self._model.context, places, shapes, fused, self._plan.kv, mixture)

    def _hash(self) -> None:
        """What pins the model, from its files, and what its tensors hold: seconds each, for a large one."""

        def work(what: str, hashed: Callable[[], str]) -> None:
            self._hashed[what] = hashed()

        if not self._is_hashed:
            self._is_hashed = True
            self._hashing.do(lambda: work("revision", lambda: self._model.revision))
            self._hashing.do(lambda: work("tensors", lambda: model_hash(self._model)))

    def _pack(self, module: nn.Module, leave: Collection[str], ready: torch.cuda.Event | None = None) -> None:
        from quantcore.export.opening import named

        with torch.cuda.stream(self._stream):  # None: no stream
            if self._stream is not None and ready is not None:
                self._stream.wait_event(ready)
            found = checkpoint_parts(module, self._form.layouts, self._dtype, leave)
            for _, together in groupby(
                found, lambda part: block_of(f"{part[0]}.", self._model.blocks) or _home(part[0])
            ):
                tensors = {f"{name}.{key}".lstrip("."): one for name, own in together for key, one in own.items()}
                self._shards.add("", named(self._model.skeleton, tensors))
            rounding = [scale_rounding(layer, self._dtype) for layer in quantized_linears(module).values()]
            self._rounding = max([self._rounding, *(torch.stack(rounding).tolist() if rounding else [])])


def _home(name: str) -> str:
    """The place outside of the decoder's blocks whose tensors are named together, since the hub may keep several of
    them in one (a tower's q, k, v): the block of a tower, or the module around."""
    inside = re.match(r".*?\.\d+(?=\.)", name)
    return inside[0] if inside else name.rpartition(".")[0]


def require_space(target: Path, needed: int) -> None:
    """Raises: ValueError where the disk of `target` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise ValueError(
            f"the checkpoint needs about {needed / 1e6:,.1f} MB and {str(target.parent)!r} has {free / 1e6:,.1f} MB "
            "free; make room, or choose another disk"
        )
