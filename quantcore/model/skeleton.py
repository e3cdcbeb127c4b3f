"""A model as config.json, or a GGUF file's header, describes it, built without memory for its weights.

    model = build("some/folder", Path("some/folder"), most=4 * 290)

Building takes time for every module, so a configuration of a few bytes could keep a machine busy for hours: `most` ends
it at more parameters than the files' tensors can become.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantcore.model.gguf_tensors import quick_gguf
from quantcore.model.linears import every_linear
from quantcore.model.making import making
from quantcore.model.sentences import named, quoted, reason
from quantcore.model.weight_files import Stored

PARTS_OF_ONE = 4  # parameters that one stored tensor is taken apart into at most, experts aside (queries, keys, values)

# Two threads inside transformers' lazy imports at once meet each other's half-made modules.
IMPORTING = threading.Lock()


def build(source: str, folder: Path, most: int, gguf: str | None = None, dtype: torch.dtype | None = None) -> Any:
    """The model on the meta device, of `dtype` or float32.

    Raises: ValueError where transformers cannot build it, it has more than `most` parameters, or no Linear."""
    with IMPORTING:
        from transformers import AutoConfig

    which = {"trust_remote_code": False, **({"gguf_file": gguf} if gguf else {})}
    where = "header" if gguf else "config.json"
    try:
        with quick_gguf() if gguf else nullcontext():
            config = AutoConfig.from_pretrained(folder, **which)
        config.return_dict = True  # how an answer is handed over, which is no part of a model
        with making(), _at_most(most), torch.device("meta"):
            model = _auto(config).from_config(config, dtype=dtype or torch.float32, trust_remote_code=False)
    except _TooManyError as error:
        raise ValueError(
            f"could not load {named(source)}: its {where} describes a model of more parameters than its files can hold "
            f"({most:,}); download both again, from one place"
        ) from error
    except Exception as error:
        if str(error).startswith("Unrecognized configuration class"):
            why = f"transformers has no causal language model of type {quoted(config.model_type)}; try another model"
        else:
            why = (
                f"transformers cannot build the model that its {where} describes ({reason(error, 130)}); correct it, "
                "or try another model"
            )
        raise ValueError(f"could not load {named(source)}: {why}") from error
    if not every_linear(model):
        raise ValueError(f"{named(source)} has no Linear layer, so there is nothing to quantize; try 'reference'")
    try:
        model.get_input_embeddings()
    except NotImplementedError as error:
        raise ValueError(
            f"could not load {named(source)}: transformers' {type(model).__name__} does not say where it keeps its "
            "tokens' embeddings, so no text can be read; try another model"
        ) from error
    return model


def _auto(config: Any) -> Any:
    """transformers' maker of a configuration's model: a causal language model, or one that reads pictures beside text,
    where that is what the configuration says, or the only one there is."""
    with IMPORTING:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.models.auto import modeling_auto as known

    seeing = known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    said = (getattr(config, "architectures", None) or [None])[0]
    texts_only = config.model_type in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if seeing and (said == seeing or not texts_only) else AutoModelForCausalLM


def most_parameters(stored: Mapping[str, Stored]) -> int:
    """How many parameters the files' tensors can become: experts in one tensor may be taken apart."""
    return sum(PARTS_OF_ONE + (min(one.shape[0], one.numbers) if len(one.shape) > 2 else 0) for one in stored.values())


def numbers_of(model: nn.Module) -> int:
    """Parameters and buffers, tied ones once."""
    return sum(one.numel() for one in {id(one): one for one in (*model.parameters(), *model.buffers())}.values())


class _TooManyError(Exception):
    """More parameters were made than may be."""


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Ends the building of a model, in this thread, that has more."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    thread, count = threading.get_ident(), 0

    def counted(*_: object) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > parameters:
            raise _TooManyError

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()
