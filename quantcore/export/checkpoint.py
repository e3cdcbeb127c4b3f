"""Write a model as a compressed-tensors checkpoint, which transformers and vLLM load.

    report = export_checkpoint(load_model("reference"), "W4A16,gptq/actorder=weight", "out/reference-w4", tokens)
    AutoModelForCausalLM.from_pretrained(report.folder)

Tensors go to disk module by module, a shard at a time: beside the quantized model never more than one shard lives in
memory. All is written into a hidden folder beside the target, config.json last, and the hidden folder then takes the
target's name: whatever ends the export earlier leaves no folder of that name, or the one that was there before.

Numbers that are not codes (norms, embeddings, biases, scales) are stored in one type: by default the narrowest of
bfloat16, float16 and float32 that holds every parameter of the model exactly. Only the scales are rounded, by at most
half a unit in the last place, 2^-8 in bfloat16; the report says by how much.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantcore.export.new_folder import all_or_nothing, require_place
from quantcore.export.serving import Serving, serving
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import checkpoint_bytes, quantized_linears
from quantcore.measure.store import model_hash, tokens_hash
from quantcore.model.linears import linears
from quantcore.model.loading import LoadedModel
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import LayerReport, quantize_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

SHARD_BYTES = 5 * 10**9
STORED_TYPES = (torch.bfloat16, torch.float16, torch.float32)
REPORT_FILE = "export.json"
Part = tuple[str, dict[str, Tensor]]


@dataclass(frozen=True)
class StoredFile:
    """One file of the checkpoint; sha256 in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportReport:
    """What was written, and all that is needed to write it again.

    dtype                 of everything that is no code
    scale_rounding        largest |stored scale / computed scale - 1|; a weight of the checkpoint differs from ours by
                          at most this share of itself
    scale_rounding_limit  what rounding to that dtype may cost: half a unit in the last place
    quantize_s, write_s   seconds
    """

    folder: str
    scheme: str
    format: str
    dtype: str
    scale_rounding: float
    scale_rounding_limit: float
    files: tuple[StoredFile, ...]
    bytes: int
    layers: tuple[LayerReport, ...]
    model: str
    revision: str
    model_hash: str
    calibration_tokens: int | None
    calibration_hash: str | None
    serving: Serving
    quantize_s: float
    write_s: float
    made: str
    device: str
    versions: dict[str, str]


def export_checkpoint(
    loaded: LoadedModel,
    scheme: Scheme | Plan | str,
    folder: str | Path,
    calibration: Tensor | None = None,
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ExportReport:
    """Quantize a model and write it to `folder`, with its tokenizer and generation config.

    calibration  (windows, T), for GPTQ and static activations
    force        whether a model that is in `folder` already may be replaced
    dtype        of scales, norms, embeddings; None: the narrowest that holds the model's parameters exactly
    shard_bytes  most bytes of one file
    Raises: ValueError for what compressed-tensors cannot hold, a folder that cannot be written, a full disk, and what
    `quantize_model` refuses."""
    from quantcore.export.checkpoint_format import require_exportable  # compressed-tensors takes 2 s to import

    plan = Plan.of(scheme)
    plan.require_layers(linears(loaded.model))
    chosen = {name: found for name in linears(loaded.model) if (found := plan.scheme_for(name)) is not None}
    require_exportable(list(dict.fromkeys(chosen.values())))
    _require_plain_linears(loaded.model, chosen)
    require_place(folder, loaded.id, force)
    started = time.perf_counter()
    quantized, layers = quantize_model(loaded.model, plan, calibration=calibration, progress=progress)
    quantize_s = time.perf_counter() - started
    return write_checkpoint(
        loaded, quantized, plan, folder, layers, calibration,
        force=force, dtype=dtype, shard_bytes=shard_bytes, quantize_s=quantize_s,
    )  # fmt: skip


def write_checkpoint(
    loaded: LoadedModel,
    quantized: nn.Module,
    plan: Plan,
    folder: str | Path,
    layers: Iterable[LayerReport] = (),
    calibration: Tensor | None = None,
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    quantize_s: float = 0.0,
) -> ExportReport:
    """Write the copy of `loaded` that `quantize_model` made under `plan`; the arguments are `export_checkpoint`'s."""
    from quantcore.export.checkpoint_format import config_entry, configuration, group

    started = time.perf_counter()
    held = quantized_linears(quantized)
    schemes = {name: found for name in held if (found := plan.scheme_for(name)) is not None}
    _require_plain_linears(loaded.model, schemes)
    config = configuration(schemes, list(linears(quantized)))
    alone = len(set(schemes.values())) == 1
    layouts = {name: str(group(scheme, ["Linear"], alone).format) for name, scheme in schemes.items()}
    dtype = stored_type(loaded.model) if dtype is None else dtype
    target = require_place(folder, loaded.id, force)
    require_space(target, checkpoint_bytes(quantized))
    with all_or_nothing(target) as temporary:
        write_shards(checkpoint_parts(quantized, layouts, dtype), temporary, shard_bytes)
        loaded.tokenizer.save_pretrained(temporary)
        _save_generation_config(loaded.model, temporary)
        report = ExportReport(
            folder=str(target),
            scheme=str(plan),
            format=str(config.format),
            dtype=str(dtype).removeprefix("torch."),
            scale_rounding=max((_rounding(layer, dtype) for layer in held.values()), default=0.0),
            scale_rounding_limit=torch.finfo(dtype).eps / 2,
            files=tuple(_stored_file(path) for path in sorted(temporary.iterdir())),
            bytes=sum(path.stat().st_size for path in temporary.iterdir()),
            layers=tuple(layers),
            model=loaded.id,
            revision=loaded.revision,
            model_hash=model_hash(loaded.model),
            calibration_tokens=None if calibration is None else calibration.numel(),
            calibration_hash=None if calibration is None else tokens_hash(calibration),
            serving=serving(str(target), schemes, loaded.context),
            quantize_s=quantize_s,
            write_s=time.perf_counter() - started,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            device=device_name(loaded.device),
            versions={**versions(), "compressed-tensors": metadata.version("compressed-tensors")},
        )
        here = replace(report, folder=target.name, serving=serving(target.name, schemes, loaded.context))
        (temporary / REPORT_FILE).write_text(json.dumps(asdict(here), indent=2, default=str), encoding="utf-8")
        _save_config(loaded.model, quantized, config_entry(config), dtype, temporary)
    return report


def stored_type(model: nn.Module) -> torch.dtype:
    """The narrowest of bfloat16, float16 and float32 that holds every parameter of the model exactly."""
    floats = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    for dtype in STORED_TYPES[:-1]:
        if all(one.dtype == dtype or torch.equal(one.to(dtype).to(one.dtype), one) for one in floats):
            return dtype
    return STORED_TYPES[-1]


def checkpoint_parts(quantized: nn.Module, layouts: dict[str, str], dtype: torch.dtype) -> Iterator[Part]:
    """Module by module, its name and the tensors that it stores; tied tensors once. Nothing is kept between two."""
    from quantcore.export.checkpoint_format import layer_tensors

    seen: set[int] = set()
    for name, module in quantized.named_modules():
        if isinstance(module, QuantLinear):
            try:
                yield name, layer_tensors(module, layouts[name], dtype)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
            continue
        own = dict(module.named_parameters(recurse=False))
        passing = module._non_persistent_buffers_set
        own |= {key: value for key, value in module.named_buffers(recurse=False) if key not in passing}
        new = {key: value for key, value in own.items() if id(value) not in seen}
        seen.update(id(value) for value in new.values())
        if new:
            yield name, {key: _cast(value.detach(), dtype) for key, value in new.items()}


def write_shards(parts: Iterable[Part], folder: Path, shard_bytes: int = SHARD_BYTES) -> dict[str, str]:
    """The tensors of the parts as safetensors files of at most `shard_bytes` (a larger tensor has its own); returns
    the file of each tensor. One file: model.safetensors; several: numbered, with the index that names them."""
    held: dict[str, Tensor] = {}
    placed: dict[str, int] = {}
    shards: list[Path] = []
    size = total = 0

    def flush() -> None:
        shards.append(folder / f"shard-{len(shards) + 1}")
        save_file(held, shards[-1], {"format": "pt"})
        held.clear()

    for name, tensors in parts:
        for key, tensor in tensors.items():
            if held and size + tensor.nbytes > shard_bytes:
                flush()
                size = 0
            full = f"{name}.{key}" if name else key
            held[full] = tensor.cpu().contiguous()
            placed[full] = len(shards)
            size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    names = [f"model-{place + 1:05d}-of-{len(shards):05d}.safetensors" for place in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for shard, name in zip(shards, names, strict=True):
        shard.rename(folder / name)
    files = {tensor: names[place] for tensor, place in placed.items()}
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return files


def _require_plain_linears(model: nn.Module, names: Iterable[str]) -> None:
    """Raises: ValueError for a layer that readers of the format do not look at, because it is no torch Linear."""
    for name in names:
        if not isinstance(layer := model.get_submodule(name), nn.Linear):
            raise ValueError(
                f"{name!r} is a {type(layer).__name__} and readers of compressed-tensors look for codes in torch's "
                "Linear only; leave it out with skip=, or export a model of another kind"
            )


def require_space(target: Path, needed: int) -> None:
    """Raises: ValueError where the disk of `target` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise ValueError(
            f"the checkpoint needs about {needed / 1e6:,.1f} MB and {str(target.parent)!r} has {free / 1e6:,.1f} MB "
            "free; make room, or choose another disk"
        )


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _rounding(layer: QuantLinear, dtype: torch.dtype) -> float:
    """The largest relative change of a layer's scales in `dtype`."""
    static = layer.static_qparams
    scales = [one for one in (layer.scale, static and static.scale) if isinstance(one, Tensor)]
    return max(float((one.to(dtype).double() / one.double() - 1).abs().max()) for one in scales)


def _stored_file(path: Path) -> StoredFile:
    with path.open("rb") as file:
        return StoredFile(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _save_generation_config(model: Any, folder: Path) -> None:
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)


def _save_config(model: Any, quantized: Any, quantization: dict[str, Any], dtype: torch.dtype, folder: Path) -> None:
    """config.json: the source's, its dtype, the quantization config; the head is no longer tied if it holds codes."""
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    if isinstance(quantized.get_output_embeddings(), QuantLinear):
        config.tie_word_embeddings = False
    config.quantization_config = quantization
    config.save_pretrained(folder)
