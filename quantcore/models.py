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
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantcore import gguf_file
from quantcore.memory import require_memory
from quantcore.sources import ASSETS as ASSETS
from quantcore.sources import REFERENCE as REFERENCE
from quantcore.sources import Place, Progress, fetch, quiet
from quantcore.sources import source_path as source_path
from quantcore.weight_files import parameters

REFERENCE_LAYER = "model.layers.1.mlp.down_proj"  # whose input has the reference model's strongest outlier channel
TEXT_SPLITS = ("calibration", "evaluation")
TEXT_KINDS = ("encyclopedia", "story", "technical", "code", "dialogue")
DOCUMENT_END = "<|endoftext|>\n"
LONGEST_TEXT_BYTES = 20_000_000
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


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear of the model under its dotted name, in the model's order.

    GPT-2's `Conv1D` is a Linear that stores its weight as (in, out); it is given as a Linear that shares this weight,
    transposed. Such a view has no part in the model's own run: to watch or replace, take the submodule of that name."""
    found = {name: _as_linear(module) for name, module in model.named_modules()}
    return {name: linear for name, linear in found.items() if linear is not None}


def left_float(model: nn.Module) -> dict[str, Tensor]:
    """The model's matrices that are no Linear's and no embedding's, under their names: experts fused into one parameter
    of three dimensions, their routers, convolutions. Nothing here quantizes them."""
    return {
        f"{name}.{kind}".removeprefix("."): parameter
        for name, module in model.named_modules()
        if not isinstance(module, nn.Embedding) and _as_linear(module) is None
        for kind, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }


def _as_linear(module: nn.Module) -> nn.Linear | None:
    if isinstance(module, nn.Linear):
        return module
    kind = type(module)
    if (kind.__module__, kind.__name__) != ("transformers.pytorch_utils", "Conv1D"):  # by name: importing it takes 1 s
        return None
    stored = cast(Tensor, module.weight)
    linear = nn.Linear(stored.shape[0], stored.shape[1], device="meta")
    linear.weight = nn.Parameter(stored.detach().T, requires_grad=False)
    linear.bias = cast(nn.Parameter, module.bias)
    return linear


def linear_named(model: nn.Module, name: str) -> nn.Linear:
    """The Linear of that name. Raises: ValueError that names a few which exist."""
    layers = linears(model)
    if name not in layers:
        some = ", ".join(list(layers)[:3])
        raise ValueError(f"no Linear layer is called {name!r}; this model has {len(layers)}, such as {some}")
    return layers[name]


def place_of(name: str) -> tuple[int | None, str]:
    """A layer's place on a map: (block number or None, module within the block), `model.layers.3.mlp.up_proj` ->
    (3, `mlp.up_proj`)."""
    match = re.fullmatch(r"(?:.*?\.)?(\d+)\.(.+)", name)
    return (int(match[1]), match[2]) if match else (None, name)


def bundled_text(split: str = "evaluation", kind: str = "all") -> str:
    """Our own text: `split` calibration or evaluation, `kind` one of TEXT_KINDS, or all of them in turn.

    Documents are set apart by blank lines: the files' end mark would be a word like any other to most tokenizers."""
    if split not in TEXT_SPLITS:
        raise ValueError(f"no bundled text is called {split!r}; try {' or '.join(TEXT_SPLITS)}")
    if kind != "all" and kind not in TEXT_KINDS:
        raise ValueError(f"no kind of text is called {kind!r}; try all, {', '.join(TEXT_KINDS)}")
    kinds = TEXT_KINDS if kind == "all" else (kind,)
    texts = [(ASSETS / "text" / split / f"{one}.txt").read_text(encoding="utf-8") for one in kinds]
    return "".join(texts).replace(DOCUMENT_END, "\n")


def read_text(path: str | Path) -> str:
    """A text file of the user's. Raises: ValueError if it is missing, too long, empty, or not UTF-8."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file is called {str(path)!r}; give a UTF-8 text file")
    require_text_size(path.stat().st_size)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def require_text_size(size_bytes: int) -> None:
    if size_bytes > LONGEST_TEXT_BYTES:
        raise ValueError(
            f"the text has {size_bytes / 1e6:.1f} MB, the limit is {LONGEST_TEXT_BYTES / 1e6:.0f} MB; give a part of it"
        )


def token_windows(tokenizer: Any, text: str, length: int = WINDOW, limit: int | None = None) -> Tensor:
    """The text as non-overlapping windows of token ids, shape (windows, length), int64.

    The whole text is tokenized once and cut; a rest shorter than a window is left out, unless it is all there is. Where
    the tokenizer puts a first token (bos) before a text, each window begins with it, as in training. `limit` keeps
    the first windows that hold at most so many tokens. Raises: ValueError for a text with fewer than two tokens."""
    require_text_size(len(text.encode("utf-8", "surrogatepass")))
    prefix = _first_token(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []
    if len(prefix) + len(ids) < 2:
        raise ValueError(f"the text gives {len(ids)} tokens and a model needs two to predict one; give a sentence")
    step = min(length, len(prefix) + len(ids)) - len(prefix)
    rows = [prefix + ids[start : start + step] for start in range(0, len(ids) - step + 1, step)]
    if limit is not None:
        rows = rows[: max(1, limit // len(rows[0]))]
    return torch.tensor(rows, dtype=torch.int64)


def prompt_tokens(tokenizer: Any, prompt: str, context: int) -> tuple[Tensor, int]:
    """A prompt as one row of token ids, (1, T), and how many tokens were cut from its start to fit the context.

    It begins with the tokenizer's first token (bos) where texts do; what is no character (a lone surrogate) becomes
    "?". Raises: ValueError for a prompt of nothing but spaces."""
    prefix = _first_token(tokenizer)
    readable = prompt.encode("utf-8", "replace").decode("utf-8")
    ids = tokenizer(readable, add_special_tokens=False, verbose=False)["input_ids"] if readable.strip() else []
    if not ids:
        raise ValueError("the prompt is empty and a model continues what it has read; type the start of a sentence")
    kept = ids[-max(1, context - len(prefix)) :]
    return torch.tensor([prefix + kept], dtype=torch.int64), len(ids) - len(kept)


def _first_token(tokenizer: Any) -> list[int]:
    bos = getattr(tokenizer, "bos_token_id", None)
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def batches(tokens: Tensor, device: torch.device, tokens_a_batch: int = 4096) -> Iterator[Tensor]:
    """The windows in batches of about `tokens_a_batch` tokens, on the device."""
    for rows in torch.split(tokens, max(1, tokens_a_batch // tokens.shape[1])):
        yield rows.to(device)
