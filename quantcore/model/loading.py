"""Load a causal language model and the text it reads; say in one sentence what is wrong when that fails.

A source is `reference` (the model that ships in assets/), a local folder in the transformers format, a GGUF file, or a
hub id (see `sources`). Only safetensors and GGUF weights are read and no code that comes with a model is ever run.

    loaded = load_model("reference")
    tokens = token_windows(loaded.tokenizer, bundled_text("evaluation"))        # (windows, 512)
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model import gguf_file
from quantcore.model.linears import linears
from quantcore.model.memory import require_memory
from quantcore.model.sources import ASSETS as ASSETS
from quantcore.model.sources import REFERENCE as REFERENCE
from quantcore.model.sources import Place, Progress, fetch, quiet
from quantcore.model.sources import source_path as source_path
from quantcore.model.weight_files import parameters

REFERENCE_LAYER = "model.layers.1.mlp.down_proj"  # whose input has the reference model's strongest outlier channel
WINDOW = 512
DOWNLOAD_SHARE = 0.8  # of the progress; the rest is reading the weights
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}

# Two threads inside transformers' lazy imports at once meet each other's half-made modules.
_IMPORTING = threading.Lock()


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: float32 on the CPU, its own dtype on a GPU, gradients off.

    revision    what pins its contents: the hub's commit, or `sha256:` and a hash of the files; "" if made in memory
    notices     sentences that whoever reads its numbers should know, such as weights that were quantized before
    """

    id: str
    model: nn.Module
    tokenizer: Any
    device: torch.device
    revision: str = ""
    notices: tuple[str, ...] = ()

    @property
    def context(self) -> int:
        """The longest window that the model was made for, in tokens."""
        config: Any = self.model.config
        return int(getattr(config, "max_position_embeddings", WINDOW))


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
    require_float(source, place)
    _require_room(source, place, target)
    with _IMPORTING:  # it takes 1 s, which only those who load a model pay
        from transformers import AutoModelForCausalLM, AutoTokenizer

    which: dict[str, Any] = {"trust_remote_code": False, **({"gguf_file": place.gguf} if place.gguf else {})}
    watch = _Watch(progress)
    progress(DOWNLOAD_SHARE, "building the model")
    try:
        with watch:
            model: Any = AutoModelForCausalLM.from_pretrained(
                place.folder,
                dtype=torch.float32 if target.type == "cpu" or place.gguf else "auto",
                use_safetensors=None if place.gguf else True,
                **which,
            )
        tokenizer = AutoTokenizer.from_pretrained(place.folder, **which)
    except Exception as error:
        if watch.ended is not None:
            raise watch.ended from None
        raise ValueError(f"could not load {source!r}: {_reason(error)}") from error
    model = model.to(target).eval().requires_grad_(False)
    if not linears(model):
        raise ValueError(f"{source!r} has no Linear layer, so there is nothing to quantize; try {REFERENCE!r}")
    notices = (gguf_file.notice(place.folder / place.gguf),) if place.gguf else ()
    return LoadedModel(source, model, tokenizer, target, place.revision, notices)


def require_float(source: str, place: Place) -> None:
    """Raises: ValueError where the weights are codes of another quantizer, or of our own export."""
    config = place.folder / "config.json"
    try:
        found = {} if place.gguf or not config.is_file() else json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"could not load {source!r}: its config.json is no JSON ({error})") from error
    if isinstance(found, dict) and (quantization := found.get("quantization_config")):
        method = quantization.get("quant_method", "a method that it does not name")
        raise ValueError(
            f"{source!r} is quantized already (by {method}), "
            "so what another scheme costs could not be told; give the float model that it was made from"
        )


def _require_room(source: str, place: Place, target: torch.device) -> None:
    """Raises: ValueError where the weights are damaged, or larger than the free memory of this machine or the GPU.

    They pass through this machine's memory on their way to a GPU; a GGUF file's are there twice while it is read."""
    if place.gguf:
        counts = gguf_file.parameters(source, place.folder / place.gguf)
    else:
        try:
            counts = parameters(place.folder)
        except ValueError as error:
            raise ValueError(f"could not load {source!r}: {error}") from error
    number = sum(counts.values())
    whole = target.type == "cpu" or bool(place.gguf)
    held = 4 * number if whole else sum(count * BYTES.get(dtype, 2) for dtype, count in counts.items())
    what = f"{source!r}, {number / 1e6:,.1f} M parameters{' as float32' if whole else ''},"
    require_memory(what, held * (2 if place.gguf else 1), torch.device("cpu"))
    if target.type == "cuda":
        require_memory(what, held, target)


class _Watch:
    """Tells `progress` how many tensors transformers has read, while it reads them; one load at a time.

    `ended` is what `progress` raised to end the load."""

    _one = threading.Lock()

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.ended: Exception | None = None

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._one.acquire()
        self._before = logging.set_tqdm_hook(self._bar)

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_tqdm_hook(self._before)
        self._one.release()

    def _bar(self, factory: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]) -> Any:
        values = args[0] if args else more.get("iterable")
        return factory(*args, **more) if values is None else self._told(list(values))

    def _told(self, values: list[Any]) -> Iterator[Any]:
        for done, value in enumerate(values, 1):
            yield value
            try:
                share = DOWNLOAD_SHARE + (1 - DOWNLOAD_SHARE) * done / len(values)
                self.progress(share, f"reading tensor {done} of {len(values)}")
            except Exception as error:
                self.ended = error
                raise


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


def _reason(error: Exception) -> str:
    """The cause of a failed load as one sentence with a way out."""
    text = " ".join(str(error).split())
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    return f"{type(error).__name__}: {first[:300]}"
