"""In which form transformers can load a checkpoint of a model, found before any work.

Weights alone are packed words, from which transformers makes a Linear's weight when the model first runs. Some models
want the weight before (Falcon's own initialization reads it): then config.json says that transformers makes floats of
the codes as it loads them, or where that cannot be, the codes are stored a byte each. Codes with coded scales become
bfloat16 there, so that the model runs in no other type: with weights alone they are made floats at loading too, and
beside quantized inputs config.json names bfloat16 as the model's type. Which of the three a model can bear is
asked of transformers itself: see `opening`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from quantcore.export.cached import UNREAD, scale_shapes
from quantcore.export.checkpoint_format import config_entry, configuration, formats
from quantcore.export.experts import experts_in, patterns, read_as_linears
from quantcore.export.opening import forms_of, hub_names, named, promised, why_not
from quantcore.export.words import PACKED, READ_AS_BFLOAT16
from quantcore.model.layer_names import short_names
from quantcore.model.linears import every_linear, flat_inputs, left_float
from quantcore.numbers.granularity import PerTensor, PerToken
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.scheme import Scheme

READERS = ("transformers", "vllm")
OTHERS = ("w:int8/channel,a:int8/token/dynamic", "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic")


@dataclass(frozen=True)
class Form:
    """config: what config.json will be, as transformers' object. format: of all codes; layouts: of each layer's.
    notes: what is not as usual, for whoever reads the report. runs_in: float32, or the one type in which transformers
    runs it. opened: names, shapes and types of the tensors with which transformers was asked and found nothing
    amiss."""

    config: Any
    format: str
    layouts: dict[str, str]
    notes: tuple[str, ...] = ()
    runs_in: torch.dtype = torch.float32
    opened: frozenset[tuple[str, tuple[int, ...], torch.dtype]] = frozenset()


def loadable(
    model: Any,
    schemes: Mapping[str, Scheme],
    dtype: torch.dtype,
    reader: str = READERS[0],
    kv: CacheSpec | None = None,
) -> Form:
    """The form of a checkpoint of the model that transformers can load and compute with as we do; for another reader
    the usual form, and what transformers would make of it is noted. `kv`: what its cache holds.

    Raises: ValueError where transformers can load none, with what it can, and where it would compute otherwise."""
    if reader not in READERS:
        raise ValueError(f"{reader!r} is no reader of checkpoints that is known here; take {' or '.join(READERS)}")
    other = _computed_otherwise(model, schemes)
    if reader != READERS[0]:
        form, tensors = next(_forms(model, schemes, dtype, kv))
        problem = why_not(model, form.config, tensors)
        noted = [(other or "").partition("; ")[0], f"transformers cannot load it ({problem})" if problem else ""]
        return replace(form, notes=(*form.notes, *filter(None, noted)))
    if other is not None:
        raise ValueError(other)
    first = ""
    for form, tensors in _forms(model, schemes, dtype, kv):
        if (problem := why_not(model, form.config, tensors)) is None:
            return replace(form, opened=forms_of(tensors))
        first = first or problem
    scheme = next(iter(schemes.values()))
    out = next((one for one in OTHERS if one != str(scheme) and _loads(model, schemes, one, dtype)), None)
    raise ValueError(
        f"transformers {transformers.__version__} cannot load a checkpoint of this {type(model).__name__} under "
        f"{scheme} ({first}); {f'{out} it can' if out else 'quantize it in memory instead, or another model'}"
    )


def _computed_otherwise(model: nn.Module, schemes: Mapping[str, Scheme]) -> str | None:
    """Where transformers gives several tokens one scale, since it takes an input's first two dimensions for windows and
    tokens, which others have not (tokens alone, or heads between), and the scheme one a token; and where it rounds no
    inputs, since it makes floats of experts."""
    for place, experts in experts_in(model).items():
        mine = next((one for name, one in schemes.items() if name.startswith(f"{place}.")), None)
        if mine is not None and mine.activations is not None and not read_as_linears(experts):
            narrow = _excepted(mine, None)
            return (
                f"transformers makes floats of experts as it loads them, so it does not round what enters those of "
                f"{place!r}; write @experts={narrow} behind the scheme, or for vLLM --reader vllm"
            )
    flat = flat_inputs(model)
    found = [
        (name, one)
        for name, one in schemes.items()
        if name in flat and one.activations is not None and isinstance(one.activations.granularity, PerToken)
    ]
    if not found:
        return None
    ends = ",".join(short_names(name for name, _ in found))
    name, scheme = found[0]
    assert scheme.activations is not None
    instead = _excepted(scheme, replace(scheme.activations, granularity=PerTensor()))
    return (
        f"{name!r} gets inputs of another shape than (windows, tokens, width), of which transformers gives several "
        f"tokens one scale; take @{ends}={instead}, which is what it computes, or for vLLM --reader vllm"
    )


def _excepted(scheme: Scheme, activations: QuantSpec | None) -> Scheme:
    """The scheme with other activations, as a plan's exception may say it: without what speaks of the whole model."""
    layer = replace(scheme, activations=activations, skip=Scheme().skip, transforms=(), every_token=False)
    return replace(layer, every_token=scheme.every_token and layer.needs_text)


def _loads(model: Any, schemes: Mapping[str, Scheme], instead: str, dtype: torch.dtype) -> bool:
    others = dict.fromkeys(schemes, Scheme.parse(instead))
    return any(why_not(model, form.config, tensors) is None for form, tensors in _forms(model, others, dtype))


def _forms(
    model: Any, schemes: Mapping[str, Scheme], dtype: torch.dtype, kv: CacheSpec | None = None
) -> Iterator[tuple[Form, dict[str, Any]]]:
    """The forms that a checkpoint can have, the usual one first, each with its tensors."""
    floats = staying_float(model, schemes)
    different = set(schemes.values())
    targets_of = targets_in(model, [*schemes, *floats])
    for packed, dequantize in ((True, False), (True, True), (False, False)):
        layouts, entry = formats(schemes, packed), configuration(schemes, floats, targets_of, packed, kv)
        halves = runs_in(layouts.values()) == torch.bfloat16
        words = halves or PACKED in layouts.values()
        alone = len(different) == 1 and all(one.activations is None for one in different)
        if halves and alone and not dequantize:
            continue
        if dequantize and not (words and alone):
            continue
        if not packed and PACKED not in formats(schemes).values():
            continue
        notes = ("transformers makes floats of the codes as it loads them",) * dequantize
        notes += ("codes are stored a byte each, since transformers cannot load this model's packed words",) * (
            not packed
        )
        notes += (UNREAD,) * (kv is not None)
        kind = runs_in(layouts.values(), dequantize)
        if kind != torch.float32:
            notes += ("transformers makes bfloat16 of the codes, so it runs this in bfloat16 and in no other type",)
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        config.dtype = dtype if kind == torch.float32 else kind
        if _head_is_coded(model, schemes):
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        config.quantization_config = config_entry(entry, dequantize)
        tensors = named(model, promised(model, schemes, layouts, dtype) | scale_shapes(model, kv, dtype))
        yield Form(config, str(entry.format), layouts, notes, kind), tensors


def runs_in(layouts: Iterable[str], dequantize: bool = False) -> torch.dtype:
    """The type in which transformers runs codes of these formats: bfloat16 where it makes that of them, in any model;
    else float32. dequantize: whether it makes floats of them once, as it loads them."""
    return torch.float32 if dequantize or READ_AS_BFLOAT16.isdisjoint(layouts) else torch.bfloat16


def targets_in(model: nn.Module, names: Sequence[str]) -> Callable[[Sequence[str]], list[str]]:
    """Writes some of these modules' names as config.json's targets."""
    return partial(patterns, model, hub=hub_names(model, names))


def staying_float(model: nn.Module, schemes: Mapping[str, Scheme]) -> list[str]:
    """Modules that readers must leave as they are: Linears without a scheme, and what else holds matrices."""
    others = {name.rpartition(".")[0] for name in left_float(model)}
    known = [*every_linear(model), *sorted(others)]
    return [name for name in dict.fromkeys(known) if name and name not in schemes]


def _head_is_coded(model: Any, schemes: Mapping[str, Scheme]) -> bool:
    head = model.get_output_embeddings()
    return any(model.get_submodule(name) is head for name in schemes)
