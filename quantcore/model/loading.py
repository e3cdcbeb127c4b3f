"""Load a causal language model and the text it reads; say in one sentence what is wrong when that fails.

A source is `reference` (the model that comes along), a local folder in the transformers format, a GGUF file, or a
hub id (see `locate`). Only safetensors and GGUF weights are read and no code that comes with a model is ever run.

    loaded = load_model("reference")
    tokens = token_windows(loaded.tokenizer, bundled_text("evaluation"))        # (windows, 512)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model import gguf_file
from quantcore.model.config_file import context_of
from quantcore.model.experts import taken_apart
from quantcore.model.finite import beside_linears, require_finite
from quantcore.model.gguf_tensors import quick_gguf
from quantcore.model.hub import fetch
from quantcore.model.integrity import examine, left_over
from quantcore.model.load_report import require_complete
from quantcore.model.locate import ASSETS, REFERENCE, Place, Progress, quiet
from quantcore.model.making import making
from quantcore.model.memory import require_memory
from quantcore.model.sentences import cut, named, reason
from quantcore.model.skeleton import numbers_of
from quantcore.model.staging import move
from quantcore.model.tokenizer import require_ids, tokenizer_of
from quantcore.model.watch import Watch
from quantcore.model.weight_files import Stored, read_json

REFERENCE_LAYER = "model.layers.1.mlp.down_proj"  # whose input has the reference model's strongest outlier channel
WINDOW = 512
GENERATION = "generation_config.json"
DOWNLOAD_SHARE = 0.8  # of the progress; the rest is reading the weights
REPORTED = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # a wrong shape is in the report, as the rest


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: float32 on the CPU, its own dtype on a GPU, gradients off, its experts apart (`experts`).

    place       where its files are; None if it was made in memory
    notices     sentences that whoever reads its numbers should know, such as weights that were quantized before
    """

    id: str
    model: nn.Module
    tokenizer: Any
    device: torch.device
    place: Place | None = None
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", taken_apart(self.model))

    @property
    def revision(self) -> str:
        """What pins its contents: the hub's commit, or `sha256:` and a hash of the files; "" if made in memory."""
        return self.place.revision if self.place else ""

    @property
    def context(self) -> int | None:
        """The longest window that the model was made for, in tokens; None where it has no such limit."""
        return context_of(self.model.config)


def devices() -> list[str]:
    """Where a model can run here: the CPU, and every GPU."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def load_model(source: str = REFERENCE, device: str | None = None, progress: Progress = quiet) -> LoadedModel:
    """The model and tokenizer of `source` on `device` (None: CUDA where there is one, else CPU); a hub id that is not
    in the cache is downloaded. `progress` is told how far it is, and may raise to end it.

    Raises: ValueError, in one sentence, for a folder that is no model, an id that cannot be had, weights that are
    neither safetensors nor GGUF, too little memory, a model without Linear layers."""
    place = fetch(source, lambda share, doing: progress(DOWNLOAD_SHARE * share, doing))
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    read = (_gguf if place.gguf else _safetensors)(source, place, target)
    tokenizer, writes = tokenizer_of(source, place), generation_config(source, place.folder)
    watch = Watch(lambda share, doing: progress(DOWNLOAD_SHARE + (1 - DOWNLOAD_SHARE) * share, doing))
    progress(DOWNLOAD_SHARE, "building the model")
    try:
        with making(lambda: progress(DOWNLOAD_SHARE, "waiting for another model to be built")), watch:
            model, report = read()
    except Exception as error:
        if watch.ended is not None:
            raise watch.ended from None
        raise ValueError(f"could not load {named(source)}: {reason(error)}") from error
    try:
        require_complete(*(report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")))
    except ValueError as error:
        raise ValueError(f"could not load {named(source)}: {error}") from error
    model = model.eval().requires_grad_(False)
    move(model, target)
    if writes is not None:
        model.generation_config = writes
    require_ids(tokenizer, model.get_input_embeddings().num_embeddings)
    require_finite(source, beside_linears(model))
    notices = gguf_file.notices(place.folder / place.gguf) if place.gguf else ()
    return LoadedModel(source, model, tokenizer, target, place, notices)


def generation_config(source: str, folder: Path) -> Any:
    """What the folder says of how the model writes on; None where it says nothing: a model has its own defaults then.

    Raises: ValueError for what transformers does not take."""
    from transformers import GenerationConfig

    if not (folder / GENERATION).is_file():
        return None
    try:
        read_json(folder / GENERATION)
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:
        why = str(error) if isinstance(error, ValueError) else f"transformers does not take it ({reason(error, 120)})"
        raise ValueError(
            f"could not load {named(source)}: {cut(why, 200)}; or delete its {GENERATION}, which no figure needs"
        ) from error


_Read = Callable[[], tuple[Any, dict[str, Any]]]  # the model, and transformers' report of its load


def _safetensors(source: str, place: Place, target: torch.device) -> _Read:
    """How to read the folder's weights, after all that its headers can be asked.

    Raises: ValueError where they are not the model's, or are larger than the free memory of this machine or the GPU."""
    found = examine(source, place.folder)
    dtype = torch.float32 if target.type == "cpu" else found.dtype
    _require_room(source, found.numbers, dtype, target)

    def read() -> tuple[Any, dict[str, Any]]:
        with _opened(found.stored) as tensors:
            kind, config = type(found.skeleton), found.skeleton.config
            which: dict[str, Any] = {"config": config, "state_dict": tensors, "dtype": dtype, **REPORTED}
            model, report = kind.from_pretrained(None, **which)
        report["unexpected_keys"] = left_over(report["unexpected_keys"], found.stored)
        model.config.name_or_path = str(place.folder)
        return model, report

    return read


@contextmanager
def _opened(stored: Mapping[str, Stored]) -> Iterator[dict[str, Any]]:
    """The tensors by name, each read when transformers asks for its numbers."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files = {file: stack.enter_context(safe_open(file, "pt")) for file in {one.file for one in stored.values()}}
        yield {name: files[one.file].get_slice(name) for name, one in stored.items()}


def _gguf(source: str, place: Place, target: torch.device) -> _Read:
    """The same for a GGUF file; what it holds is there twice while it is read, the model and the numbers it is made
    of."""
    assert place.gguf is not None
    header, model = gguf_file.examine(source, place.folder / place.gguf)
    dtype = torch.float32 if target.type == "cpu" else gguf_file.own_dtype(header.parameters)
    numbers = max(numbers_of(model), sum(header.parameters.values()))
    _require_room(source, numbers, dtype, target, copies=2)

    def read() -> tuple[Any, dict[str, Any]]:
        from transformers import GgufConfig

        how = {"gguf_file": place.gguf, "quantization_config": GgufConfig(dequantize=True), "config": model.config}
        with quick_gguf():
            found: tuple[Any, dict[str, Any]] = type(model).from_pretrained(
                place.folder, dtype=dtype, **how, **REPORTED
            )
        return found

    return read


def _require_room(source: str, numbers: int, dtype: torch.dtype, target: torch.device, copies: int = 1) -> None:
    """Raises: TooLarge where the model is larger than the free memory of this machine, through which it passes on its
    way to a GPU, or of the GPU. numbers: parameters and buffers of the model that is described."""
    what = f"{named(source)}, {numbers / 1e6:,.1f} M parameters as {str(dtype).removeprefix('torch.')},"
    require_memory(what, numbers * dtype.itemsize * copies, torch.device("cpu"))
    if target.type == "cuda":
        require_memory(what, numbers * dtype.itemsize, target)


def reference_weight(layer: str) -> Tensor:
    """The weight of one of the reference model's Linears, (O, K), float32: straight from the file, which takes
    milliseconds where importing transformers and building the model takes seconds. Raises: ValueError for a name that
    is not there."""
    from safetensors import SafetensorError, safe_open

    stored = "model.embed_tokens" if layer == "lm_head" else layer  # the head is tied to the embedding table
    with safe_open(ASSETS / "reference-lm" / "model.safetensors", "pt") as file:
        try:
            weight: Tensor = file.get_tensor(f"{stored}.weight")
        except SafetensorError as error:
            raise ValueError(f"no Linear layer of the reference model is called {layer!r}") from error
    return weight.float()
