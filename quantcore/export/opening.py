"""A checkpoint as transformers opens it, on the meta device: no weight is read and none made, so it takes a second.

    named(model, tensors)                    the tensors under the names that `save_pretrained` gives them
    promised(model, schemes, layouts, ...)   what a checkpoint will hold, without memory
    why_not(model, config, tensors)          what transformers would refuse, or miss, or have too much

So what cannot be loaded is known before hours of work; and the files that were written are asked the same.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from quantcore.export.cached import ENDS
from quantcore.export.checkpoint_format import layer_shapes
from quantcore.export.experts import experts_in, read_as_linears
from quantcore.model.experts import Experts
from quantcore.model.making import making
from quantcore.model.probe import kind_of, quietly
from quantcore.model.sentences import and_more, reason
from quantcore.model.weight_files import stored_tensors
from quantcore.scheme.scheme import Scheme

WORD_BITS = 32
TYPES = {
    "F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "BOOL": torch.bool, "U8": torch.uint8,
}  # fmt: skip


def named(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors, or those of whole modules of it, under the hub's names, in the hub's form: what
    transformers puts together when it loads them is taken apart again, but for float experts, which beside codes it
    looks for in one tensor; what is never saved is left out."""
    from transformers.core_model_loading import revert_weight_conversion

    plain = copy.copy(model)
    plain._weight_conversions = None  # what a GGUF file's names were changed to is not what the hub has
    never = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_save", None) or ()]
    kept = {name: one for name, one in tensors.items() if not any(pattern.search(name) for pattern in never)}
    experts = tuple(f"{name}." for name in experts_in(model))
    fused = {name: one for name, one in kept.items() if name.startswith(experts) and one.ndim == 3}
    found: dict[str, Tensor] = revert_weight_conversion(plain, {n: one for n, one in kept.items() if n not in fused})
    return found | fused


def hub_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """What the hub calls modules of the model, where that is another name: Mixtral's `mlp.gate` is
    `block_sparse_moe.gate` there. Names that differ in numbers alone are asked once."""
    known: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in names:
        kind = kind_of(name)
        if kind not in known:
            known[kind] = kind_of(_hub_name(model, name))
        if known[kind] != kind and known[kind].count("*") == kind.count("*"):
            numbers = iter(re.findall(r"\d+", name))
            found[name] = re.sub(r"[*]", lambda _, left=numbers: next(left), known[kind])  # type: ignore[misc]
    return found


def _hub_name(model: Any, name: str) -> str:
    try:
        (found,) = named(model, {f"{name}.weight": torch.empty((4, 4), device="meta")})
    except Exception:  # a conversion that wants more tensors than this one
        return name
    return found.removesuffix(".weight")


def promised(
    model: nn.Module, schemes: Mapping[str, Scheme], layouts: Mapping[str, str], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of a checkpoint of the model under these schemes, by the model's names, on the meta device."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    together: tuple[str, ...] = ()  # float experts, which are written in one
    for name, module in model.named_modules():
        if name.startswith(together):
            continue
        if isinstance(module, Experts) and not read_as_linears(module):
            if not any(one.startswith(f"{name}.") for one in schemes):
                together += (f"{name}.",)
                found |= {f"{name}.{key}": _empty(shape, dtype) for key, shape in module.shapes.items()}
                continue
        if name in schemes:
            shapes = layer_shapes(module, schemes[name], layouts[name], dtype)
            found |= {f"{name}.{key}": _empty(shape, kind) for key, (shape, kind) in shapes}
            if f"{name}.weight_shape" in found:
                found[f"{name}.weight_shape"] = torch.tensor([module.out_features, module.in_features])
            continue
        passing = module._non_persistent_buffers_set
        own = dict(module.named_parameters(recurse=False))
        own |= {key: one for key, one in module.named_buffers(recurse=False) if key not in passing}
        for key, one in own.items():
            if id(one) not in seen:
                kind = dtype if one.is_floating_point() else one.dtype
                found[f"{name}.{key}".lstrip(".")] = _empty(one.shape, kind)
            seen.add(id(one))
    return found


def of_files(folder: Path) -> dict[str, Tensor]:
    """The tensors that a folder's files hold, on the meta device."""
    stored = stored_tensors(folder)
    found = {name: _empty(one.shape, TYPES[one.dtype]) for name, one in stored.items()}
    read: dict[Path, list[str]] = {}
    for name in (name for name in found if name.endswith(".weight_shape")):  # by which others are read
        read.setdefault(Path(stored[name].file), []).append(name)
    for path, names in read.items():
        with safe_open(path, "np") as file:
            found |= {name: torch.from_numpy(file.get_tensor(name)) for name in names}
    return found


def forms_of(tensors: Mapping[str, Tensor]) -> frozenset[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and type of each: where they are those of tensors that transformers takes, it takes these."""
    return frozenset((name, tuple(one.shape), one.dtype) for name, one in tensors.items())


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def why_not(model: Any, config: Any, tensors: Mapping[str, Tensor]) -> str | None:
    """What hinders transformers to load these tensors into a model of that configuration, in half a sentence; None
    where nothing does. Scales of a cache that the configuration says are for others: see `cached`."""
    how: dict[str, Any] = {"device_map": {"": "meta"}, "dtype": torch.float32, "output_loading_info": True}
    with making(), without_bars(), alone():
        try:
            _, found = type(model).from_pretrained(
                None, config=copy.deepcopy(config), state_dict=dict(tensors), ignore_mismatched_sizes=True, **how
            )
        except Exception as error:  # whatever a model's class does
            return reason(error)
    if missing := sorted(found["missing_keys"]):
        return f"it would find no {and_more(missing)}"
    says_cache = (getattr(config, "quantization_config", None) or {}).get("kv_cache_scheme") is not None
    unexpected = [name for name in found["unexpected_keys"] if not (says_cache and name.endswith(ENDS))]
    if over := _unknown(unexpected, model):
        return f"it would have no place for {and_more(over)}"
    if wrong := sorted(one for one in found["mismatched_keys"] if not _nearly(one[1], one[2])):
        return f"it wants {wrong[0][0]!r} in shape {tuple(wrong[0][2])}, not {tuple(wrong[0][1])}"
    return None


def _nearly(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether two shapes differ by the rest of a word alone: without memory compressed-tensors takes packed words for
    full ones."""
    off = [one - other for one, other in zip(found, wanted, strict=False) if one != other]
    return len(found) == len(wanted) and len(off) == 1 and 0 < off[0] < WORD_BITS


def _unknown(names: Collection[str], model: Any) -> list[str]:
    known = [re.compile(one) for one in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    return sorted(name for name in names if not any(one.search(name) for one in known))


@contextmanager
def alone() -> Iterator[None]:
    """Under torchrun libraries load with all processes' help, and wait for it; here one of them tries by itself."""
    asked = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_initialized = asked


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars and warnings of a load that nobody asked for."""
    from loguru import logger
    from tqdm import tqdm  # type: ignore[import-untyped]

    watched = tqdm.monitor_interval
    tqdm.monitor_interval = 0  # no thread that watches bars
    logger.disable("compressed_tensors")
    try:
        with quietly(), redirect_stderr(StringIO()):
            yield
    finally:
        tqdm.monitor_interval = watched
        logger.enable("compressed_tensors")
