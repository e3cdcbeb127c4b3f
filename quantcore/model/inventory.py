"""What a model's files hold, read from config.json and headers alone: no weight is loaded.

A header is a few kilobytes even where the weights are gigabytes, so this answers at once; only a folder's hash, which
stands for the commit that a hub id has, reads all of it, a second a gigabyte. A matrix counts as a Linear by its name,
embedding tables are left out, the output head of a tied model is put in. Where names do not tell (experts, which the
model may fuse when it loads them; parameters of three dimensions; GPT-2's transposed matrices; a GGUF file) the model
is built without memory for its weights, which takes transformers and so two seconds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from quantcore.model import gguf_file
from quantcore.model.config_file import context_of, language_part
from quantcore.model.experts import taken_apart
from quantcore.model.integrity import examine, read_headers
from quantcore.model.layer_names import place_of
from quantcore.model.linears import left_float, linear_shapes
from quantcore.model.locate import Place, locate
from quantcore.model.sentences import named, reason
from quantcore.model.skeleton import build, most_parameters
from quantcore.model.weight_files import read_json

EMBEDDING = re.compile(r"embed(?!_out)|^wte$|^wpe$")
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
EXPERTS = re.compile(r"\bexperts?\b")
WITHIN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HEADS = ("lm_head", "embed_out")


@dataclass(frozen=True)
class Inventory:
    """One model folder. `parameters` counts what the files hold, a tied head once; `bytes` are the files' own.

    revision    what pins the contents: the hub's commit, or a hash of the files
    dtypes      parameters of each type, as the header names it (BF16, F32 ...)
    linears     (out_features, in_features) under the name that `layer` takes
    left_float  shapes of the other matrices, embeddings aside, which nothing here quantizes; see linears.left_float
    notices     what whoever reads the model's figures should know, such as weights that were quantized before
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
    notices: tuple[str, ...] = ()


def inventory(source: str) -> Inventory:
    """Take stock of `source`: `reference`, a model's folder on this machine, a GGUF file, or a hub id in the cache.

    Raises: ValueError for an id that is not there, and what `load_model` refuses as far as headers tell it without a
    model that is built."""
    place = locate(source)
    if place is None:
        raise ValueError(f"{named(source)} is no folder on this machine, nor in the hub's cache; load it once")
    if place.gguf is not None:
        return _of_gguf(source, place)
    config, stored = read_headers(source, place.folder)
    config = language_part(config)
    shapes = {name: one.shape for name, one in stored.items()}
    model_type = str(config["model_type"])
    left: dict[str, tuple[int, ...]] = {}
    table = _embedding(shapes, config.get("vocab_size"))
    tied_head = table is not None and not any(f"{head}.weight" in shapes for head in HEADS)
    if model_type in CONV1D_MODELS or any(len(s) > 2 or EXPERTS.search(name) for name, s in shapes.items()):
        found, left = _of_built_model(build(source, place.folder, most_parameters(stored)))
    else:
        found = _linears(shapes)
        if table is not None and tied_head:
            found["lm_head"] = (shapes[table][0], shapes[table][1])
    if not found:
        raise ValueError(f"{named(source)} has no Linear layer, so there is nothing to quantize; try 'reference'")
    dtypes: Counter[str] = Counter()
    for one in stored.values():
        dtypes[one.dtype] += one.numbers
    return Inventory(
        source=source,
        revision=place.revision,
        model_type=model_type,
        blocks=len({block for name in shapes if (block := place_of(name)[0]) is not None}),
        context=context_of(config),
        vocabulary=config.get("vocab_size"),
        tokens=_tokenizer_size(place.folder / "tokenizer.json"),
        parameters=sum(dtypes.values()),
        bytes=sum(file.stat().st_size for file in {one.file for one in stored.values()}),
        dtypes=dict(dtypes),
        tied_head=tied_head,
        linears=found,
        left_float=left,
    )


def outline(source: str) -> nn.Module | None:
    """The model without its weights, for its Linears and their shapes; None for a hub id that must be downloaded first.
    Raises: ValueError as `load_model`."""
    place = locate(source)
    if place is None:
        return None
    if place.gguf is not None:
        model: nn.Module = gguf_file.examine(source, place.folder / place.gguf)[1]
        return model
    found: nn.Module = examine(source, place.folder).skeleton
    return found


def _of_gguf(source: str, place: Place) -> Inventory:
    """A GGUF's tensors have names of their own, so its layers are those of the model that transformers makes of it."""
    assert place.gguf is not None
    file = place.folder / place.gguf
    header, model = gguf_file.examine(source, file)
    found, left = _of_built_model(model)
    return Inventory(
        source=source,
        revision=place.revision,
        model_type=model.config.model_type,
        blocks=header.blocks,
        context=context_of(model.config),
        vocabulary=model.config.vocab_size,
        tokens=header.tokens,
        parameters=sum(header.parameters.values()),
        bytes=file.stat().st_size,
        dtypes=header.parameters,
        tied_head=bool(model.config.tie_word_embeddings),
        linears=found,
        left_float=left,
        notices=gguf_file.notices(file),
    )


def _of_built_model(model: Any) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, ...]]]:
    """Linears and other matrices of a model that was built without memory for its weights."""
    model = taken_apart(model)
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


def block_order(name: str) -> tuple[float, int, str]:
    """Sorts layers by block, then as a block reads them where their names are usual, else by name; those outside of
    blocks come last."""
    block, rest = place_of(name)
    place = next((place for place, part in enumerate(WITHIN) if rest.endswith(part)), len(WITHIN))
    return (math.inf if block is None else block, place, rest)


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
    try:
        vocabulary = content["model"]["vocab"] if "model" in content else {}
        known = set(vocabulary) if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}
        return len(known | {token["content"] for token in content.get("added_tokens", [])})
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{named(file)} holds no vocabulary ({reason(error, 80)}); download it again") from error
