"""A recipe's YAML as modifiers whose fields are all known and of the right type, or one sentence.

    modifiers("quant_stage: {quant_modifiers: {GPTQModifier: {...}}}")        [("GPTQModifier", {...})]

A field that this lab does not read could change what is quantized, so an unknown one is refused, not passed over;
those that change only how llm-compressor goes about it are in HARMLESS. A field that is null is one that is not there.
What is no mapping in a stage, such as run_type: oneshot, they pass over, and so does this reader. An AWQModifier that
quantizes, too, is one of today's with a QuantizationModifier behind it, as they read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from quantcore.export.words import LOCAL, MODIFIERS, TREATING, method_of
from quantcore.methods.options import Rtn
from quantcore.methods.transforms.options import Awq, Quip, Rotate, Smooth
from quantcore.model.sentences import quoted
from quantcore.scheme.scheme import PRESETS
from quantcore.text.files import file_content

NO_RECIPE = "no llm-compressor recipe; one has a stage, modifiers in it, and their options"
LONGEST = 100_000  # characters
DEEPEST = 20
NULL_SAYS = ("actorder",)  # "in no order", where nothing said is their default
HARMLESS = ("sequential_targets", "sequential_update", "offload_hessians", "offload_device", "format", "zp_dtype")
QUANTIZES = ("scheme", "config_groups", "targets", "ignore", "kv_cache_scheme")  # what AWQModifier said before 0.11
Read = Callable[[str, Any], Any]


def recipe_file(path: str | Path) -> str:
    """The text of a recipe's file. Raises: ValueError where there is none, or it is no text."""
    try:
        return file_content(path, "a recipe in YAML").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{quoted(path)} is not UTF-8 text (byte {error.start}); give a recipe in YAML") from error


def modifiers(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The modifiers of all stages, kind and fields. Raises: ValueError for what is no recipe of quantization."""
    if len(text) > LONGEST:
        raise ValueError(f"a recipe of {len(text):,} characters is none that can be read; the limit is {LONGEST:,}")
    stages = _yaml(text)
    groups = [
        group
        for stage in _values(stages)
        for name, group in (stage.items() if isinstance(stage, dict) else ())
        if isinstance(group, dict) or (group is not None and str(name).endswith("_modifiers"))
    ]
    if not isinstance(stages, dict) or not all(isinstance(one, dict) for one in (*_values(stages), *groups)):
        raise ValueError(f"this is {NO_RECIPE}")
    said = [(str(kind), body) for group in groups for kind, body in group.items() if body is not None]
    named = [one for kind, body in said for one in _apart(kind, body)]
    for kind, _ in named:
        if kind not in TREATMENTS:
            method_of(kind, {})  # a kind that is none of ours is told before its fields
    found = [(kind, _fields(TREATMENTS.get(kind, MODIFIER))(kind, body)) for kind, body in named]
    if all(kind in TREATMENTS for kind, _ in found):
        raise ValueError("the recipe has no modifier, so it says no scheme; add a QuantizationModifier")
    return found


def _apart(kind: str, body: Any) -> list[tuple[str, Any]]:
    """An AWQModifier that quantizes, as two."""
    if kind != TREATING[Awq] or not isinstance(body, dict) or not any(name in body for name in QUANTIZES):
        return [(kind, body)]
    own, rest = ({name: one for name, one in body.items() if (name in QUANTIZES) == both} for both in (False, True))
    return [(kind, own), (MODIFIERS[Rtn.name], rest)]


def _yaml(text: str) -> Any:
    """Raises: ValueError for what is no YAML of plain values, what is nested deeply (which would take minutes), and
    what stands for an earlier part or takes it in (* and <<), by which a few lines become gigabytes."""
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"what is nested {depth} levels deep is {NO_RECIPE}")
            if getattr(event, "value", "") == "<<":
                raise ValueError("the recipe merges mappings (<<), which this reader does not; write them out")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(
                    f"the recipe refers to an earlier part ({quoted('*' + event.anchor, 40)}), which this reader does "
                    "not follow; write it out"
                )
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ValueError(f"{quoted(problem)}: this is {NO_RECIPE}") from error


def _values(mapping: Any) -> list[Any]:
    return [one for one in mapping.values() if one is not None] if isinstance(mapping, dict) else []


def _at(where: str, name: object) -> str:
    return f"{where}.{str(name)[:40]}".lstrip(".")


def _wrong(where: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"the recipe's {where} is {quoted(value)}, not {wanted}; mend it")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(where, value, "a word")
    return value


def _lower(where: str, value: Any) -> str:
    return _text(where, value).lower()


def _preset(where: str, value: Any) -> str | dict[str, list[str]]:
    """A preset's name, or the targets of several."""
    found: str | dict[str, list[str]] = (
        _of_any_name(_texts)(where, value) if isinstance(value, dict) else _text(where, value)
    )
    for name in found if isinstance(found, dict) else [found]:
        if name.upper() not in PRESETS:
            raise _wrong(where, name, "a preset of compressed-tensors, such as W4A16 or FP8_DYNAMIC")
    return found


def _order(where: str, value: Any) -> str | None:
    return None if value is None else _text(where, value)


def _texts(where: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(where, value, "a list of words")
    return value


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _when(where: str, value: Any) -> bool | str:
    """Whether ranges are taken at run time; or those of tiles alone."""
    return LOCAL if value == LOCAL else _flag(where, value)


def _whole(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(where, value, "a whole number")
    return value


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, value, "a number")
    return float(value)


def _block(where: str, value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) != 2:
        raise _wrong(where, value, "two whole numbers, rows and columns")
    return [_whole(where, one) for one in value]


def _of_any_name(read: Read) -> Read:
    """A mapping whose names are free."""

    def each(where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, value, "a mapping of names")
        return {str(name): read(_at(where, name), one) for name, one in value.items() if one is not None}

    return each


def _fields(known: Mapping[str, Read]) -> Read:
    """A mapping of these names alone."""

    def each(where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, value, "a mapping of its options")
        plain = {str(name): one for name, one in value.items() if name not in HARMLESS}
        said = {name: one for name, one in plain.items() if one is not None or name in NULL_SAYS}
        if unknown := [name for name in said if name not in known]:
            raise ValueError(
                f"the recipe's {where} has {quoted(unknown[0])}, which this lab does not know; leave it out"
            )
        return {name: known[name](_at(where, name), one) for name, one in said.items()}

    return each


ARGUMENTS = _fields(
    {
        "num_bits": _whole,
        "type": _lower,
        "symmetric": _flag,
        "strategy": _lower,
        "group_size": _whole,
        "block_structure": _block,
        "dynamic": _when,
        "scale_dtype": _text,
        "observer": _text,
        "observer_kwargs": _fields({"averaging_constant": _number}),
    }
)
GROUP = _fields({"targets": _texts, "weights": ARGUMENTS, "input_activations": ARGUMENTS})
MODIFIER: dict[str, Read] = {
    "targets": _texts,
    "ignore": _texts,
    "scheme": _preset,
    "config_groups": _of_any_name(GROUP),
    "kv_cache_scheme": ARGUMENTS,
    "actorder": _order,
    "dampening_frac": _number,
    "block_size": _whole,
}
TREATMENTS: dict[str, dict[str, Read]] = {
    TREATING[Smooth]: {"smoothing_strength": _number, "algorithm": _text},
    TREATING[Awq]: {"n_grid": _whole, "duo_scaling": _flag},
    TREATING[Rotate]: {"rotations": _texts, "transform_type": _text},
    TREATING[Quip]: {
        "rotations": _texts,
        "transform_type": _text,
        "transform_block_size": _whole,
        "targets": _texts,
        "ignore": _texts,
    },
}
