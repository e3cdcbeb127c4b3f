"""What a model folder holds, read from config.json and the safetensors headers alone: no weight is loaded.

A header is a few kilobytes even where the weights are gigabytes, so this answers at once; only a folder's hash, which
stands for the commit that a hub id has, reads all of it, a second a gigabyte. A matrix counts as a
Linear by its name, embedding tables are left out, the output head of a tied model is put in. Where names do not tell
(experts, which the model may fuse when it loads them; parameters of three dimensions; GPT-2's transposed matrices) the
model is built from config.json without memory for its weights, which takes transformers and so two seconds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quantcore.model.linears import left_float, linear_shapes, place_of
from quantcore.model.sources import locate
from quantcore.model.weight_files import header, read_json, weight_files

EMBEDDING = re.compile(r"embed(?!_out)|^wte$|^wpe$")
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
EXPERTS = re.compile(r"\bexperts?\b")
HEADS = ("lm_head", "embed_out")


@dataclass(frozen=True)
class Inventory:
    """One model folder. `parameters` counts what the files hold, a tied head once; `bytes` are the files' own.

    revision    what pins the contents: the hub's commit, or a hash of the files
    dtypes      parameters of each type, as the header names it (BF16, F32 ...)
    linears     (out_features, in_features) under the name that `layer` takes
    left_float  shapes of the other matrices, embeddings aside, which nothing here quantizes; see models.left_float
    tied_head   whether the output head is the embedding table
    vocabulary  rows of the embedding table; `tokens` entries of the tokenizer, None without tokenizer.json
    """

    source: str
    revision: str
    model_type: str
    blocks: int
    context: int | None
    vocabulary: int | None
    tokens: int | None
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    tied_head: bool
    linears: dict[str, tuple[int, int]]
    left_float: dict[str, tuple[int, ...]]


def inventory(source: str) -> Inventory:
    """Take stock of `source`: `reference`, a model's folder on this machine, or a hub id in the hub's cache.

    Raises: ValueError for an id that is not there, a folder that is no model, a damaged file, no Linear layer."""
    place = locate(source)
    if place is None or place.gguf is not None:
        what = (
            "is no folder on this machine, nor in the hub's cache; load it once" if place is None else "is a GGUF file"
        )
        raise ValueError(f"{source!r} {what}: only the headers of safetensors can be read")
    folder = place.folder
    config = _config(folder)
    files = weight_files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: Counter[str] = Counter()
    for file in files:
        for name, (shape, dtype) in header(file).items():
            shapes[name] = shape
            dtypes[dtype] += math.prod(shape)
    model_type = str(config.get("model_type", "unknown"))
    left_float: dict[str, tuple[int, ...]] = {}
    table = _embedding(shapes, config.get("vocab_size"))
    tied_head = table is not None and not any(f"{head}.weight" in shapes for head in HEADS)
    if model_type in CONV1D_MODELS or any(len(s) > 2 or EXPERTS.search(name) for name, s in shapes.items()):
        linears, left_float = _of_built_model(folder)
    else:
        linears = _linears(shapes)
        if table is not None and tied_head:
            linears["lm_head"] = (shapes[table][0], shapes[table][1])
    if not linears:
        raise ValueError(f"{source!r} has no Linear layer, so there is nothing to quantize; try 'reference'")
    return Inventory(
        source=source,
        revision=place.revision,
        model_type=model_type,
        blocks=len({block for name in shapes if (block := place_of(name)[0]) is not None}),
        context=config.get("max_position_embeddings"),
        vocabulary=config.get("vocab_size"),
        tokens=_tokenizer_size(folder / "tokenizer.json"),
        parameters=sum(dtypes.values()),
        bytes=sum(file.stat().st_size for file in files),
        dtypes=dict(dtypes),
        tied_head=tied_head,
        linears=linears,
        left_float=left_float,
    )


def _config(folder: Path) -> dict[str, Any]:
    """config.json; a multimodal model keeps its language model's part under text_config."""
    config = read_json(folder / "config.json")
    return {**config, **config.get("text_config", {})}


def _of_built_model(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, ...]]]:
    """Linears and other matrices of the model that transformers builds from config.json, without memory for weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{str(folder)!r} holds no model that transformers can build: {error}") from error
    return linear_shapes(model), {name: tuple(parameter.shape) for name, parameter in left_float(model).items()}


def _linears(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The matrices that become Linears, block by block."""
    found: dict[str, tuple[int, int]] = {}
    for name in sorted(shapes, key=block_order):
        module, _, kind = name.rpartition(".")
        if kind != "weight" or len(shapes[name]) != 2 or EMBEDDING.search(module.rpartition(".")[2]):
            continue
        found[module] = (shapes[name][0], shapes[name][1])
    return found


def block_order(name: str) -> tuple[float, str]:
    """Sorts layers by block, then by name; those outside of blocks come last."""
    block, rest = place_of(name)
    return (math.inf if block is None else block, rest)


def _embedding(shapes: dict[str, tuple[int, ...]], vocabulary: int | None) -> str | None:
    """The name of the table that holds a row for every token."""
    for name, shape in shapes.items():
        if EMBEDDING.search(name.removesuffix(".weight").rpartition(".")[2]) and len(shape) == 2:
            if vocabulary is None or shape[0] >= vocabulary:
                return name
    return None


def _tokenizer_size(file: Path) -> int | None:
    """How many tokens tokenizer.json defines, added ones included."""
    if not file.is_file():
        return None
    content = read_json(file)
    vocabulary = content.get("model", {}).get("vocab", {})
    known = set(vocabulary) if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}
    return len(known | {token["content"] for token in content.get("added_tokens", [])})
