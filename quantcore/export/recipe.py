"""A scheme or plan as a recipe for llm-compressor, which runs it on models of any size, and back.

    text = recipe("W4A16,gptq/actorder=weight@down_proj=W8A16")        YAML
    plan_from_recipe(text)                                             the plan again
    script("W4A16", "owner/model")                                     the Python that runs it

Transforms come first, each a modifier of its own: SmoothQuantModifier. One modifier for each method: GPTQModifier, or
QuantizationModifier for rounding to nearest; in it one config group for each scheme. The default's group is for every
Linear. A pattern of ours, a run of whole parts of a layer's name, is a regular expression there. Where several
exceptions fit a layer our last one decides, so an exception's expression shuts out, by a negative lookahead, all those
after it. Layers that stay float are in `ignore`. What a cache holds is the first modifier's kv_cache_scheme.

What experts see while they are calibrated (experts=all) no recipe says: there it is an argument of `oneshot`, which
`script` gives. The words themselves: `words`. Its mse searches another grid than ours, so those scales differ a little.
Checked against llm-compressor 0.14.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import yaml  # type: ignore[import-untyped]

from quantcore.export.cache_words import cache_of, recipe_entry, require_words
from quantcore.export.recipe_text import modifiers
from quantcore.export.words import (
    MODIFIERS,
    TREATING,
    Entry,
    method_of,
    modifier,
    observed,
    spec_of,
    transform_of,
    treating,
    whole,
    why_no_words,
    why_not_treating,
)
from quantcore.methods.options import Method
from quantcore.methods.transforms.options import Transform, in_order
from quantcore.model.locate import HUB_ID
from quantcore.model.sentences import quoted
from quantcore.numbers.spec import MinMax, Percentile, Search
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.patterns import REGEX, expression, fits, written
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import HEAD, Scheme

SAMPLES, LENGTH = 512, 2048
EVERY_LINEAR = "Linear"
WHOLE = "$"  # ends an expression that says a whole name


def recipe(scheme: Scheme | Plan | str) -> str:
    """The llm-compressor recipe of a scheme or plan, YAML. Raises: ValueError for what llm-compressor has not."""
    plan = Plan.of(scheme)
    require_words(plan.kv)
    if plan.is_float and plan.kv is not None:
        raise ValueError(f"no layer is quantized, and {plan.kv} alone makes no recipe here; give W8A16,{plan.kv}")
    if plan.is_float:
        raise ValueError("nothing is quantized, so there is no recipe; give a scheme such as W4A16")
    for one in plan.schemes:
        if (reason := why_not(one)) is not None:
            raise ValueError(f"llm-compressor has no recipe for {one}: {reason}")
    runs = [(one, [pattern for pattern, _ in run]) for one, run in groupby(plan.overrides, key=lambda o: o[1])]
    regexes: list[tuple[Scheme, list[str]]] = []
    for place, (one, patterns) in enumerate(runs):
        later = [pattern for _, more in runs[place + 1 :] for pattern in more]
        regexes.append((one, [_regex(pattern, later) for pattern in patterns]))
    overridden = [pattern for pattern, _ in plan.overrides]
    skipped = [_skip(name, overridden) for name in plan.default.skip]
    stage = {f"treatment_{place}_modifiers": treating(one) for place, one in enumerate(plan.transforms)}
    stage |= {
        f"group_{place}_modifiers": _modifier(method, plan.default, regexes, skipped)
        for place, method in enumerate(dict.fromkeys(one.method for one in plan.schemes if not one.is_float))
    }
    if plan.kv is not None:
        first = next(iter(stage["group_0_modifiers"].values()))
        first["kv_cache_scheme"] = recipe_entry(plan.kv)  # one modifier says it for the model
    return str(yaml.safe_dump({"quantization_stage": stage}, sort_keys=False, width=120))


def script(scheme: Scheme | Plan | str, model: str, folder: str | None = None, context: int | None = None) -> str:
    """The Python program that runs `recipe(scheme)`, kept as recipe.yaml, on a model at full scale, and writes the
    checkpoint into `folder` (default: the model's name and "quantized").

    model     a folder, a GGUF file, or a hub id, which may name a revision: `owner/name@revision`
    context   tokens, the longest that the model was made for, where it is known: it learns from no longer ones"""
    plan, opened = Plan.of(scheme), _opened(model)
    classes = "AutoModelForCausalLM, AutoTokenizer" + ", GgufConfig" * opened.gguf
    data = ""
    if plan.needs_text:
        data = (
            '    dataset="ultrachat_200k",\n'
            f'    splits="train_sft[:{SAMPLES}]",\n'
            f"    num_calibration_samples={SAMPLES},\n"
            f"    max_seq_length={min(LENGTH, context or LENGTH)},\n"
            f"    moe_calibrate_all_experts={any(one.every_token for one in plan.schemes)},\n"
        )
    folder = folder or f"{model.rstrip('/').split('/')[-1]}-quantized"
    return (
        "from llmcompressor import oneshot\n"
        f"from transformers import {classes}\n\n"
        f'model = AutoModelForCausalLM.from_pretrained({opened.words}, dtype="auto"{opened.floats})\n'
        f"tokenizer = AutoTokenizer.from_pretrained({opened.words})\n"
        "oneshot(\n"
        "    model=model,\n"
        "    tokenizer=tokenizer,\n"
        "    recipe='recipe.yaml',\n"
        f"{data}"
        ")\n"
        f"model.save_pretrained({folder!r}, save_compressed=True)\n"
        f"tokenizer.save_pretrained({folder!r})\n"
    )


class _Opened(NamedTuple):
    """How transformers opens a model."""

    words: str  # of model and tokenizer alike
    gguf: bool = False

    @property
    def floats(self) -> str:
        """What makes Linears of a GGUF's codes."""
        return ", quantization_config=GgufConfig(dequantize=True)" * self.gguf


def _opened(model: str) -> _Opened:
    path = Path(model)
    if path.suffix == ".gguf" or path.is_file():  # a file is the one, a class may name it without its folder
        return _Opened(f"{str(path.parent)!r}, gguf_file={path.name!r}", gguf=True)
    repo, at, revision = model.partition("@")
    pinned = at and HUB_ID.fullmatch(model)
    return _Opened(f"{repo!r}, revision={revision!r}" if pinned else repr(model))


def why_not(scheme: Scheme) -> str | None:
    """What of a scheme llm-compressor has not, in a sentence; None where it has all."""
    cached = () if scheme.kv is None else scheme.kv.sides
    specs = [spec for spec in (scheme.weights, scheme.activations, *cached) if spec is not None]
    for spec in specs:
        if spec.fmt.name != whole(spec.fmt):
            return f"it has no {spec.fmt.name}; use {whole(spec.fmt)}"
        if (lacking := why_no_words(spec)) is not None:
            return f"it has {lacking}"
        if spec.jitter:
            return f"it moves no scales; leave jitter{spec.jitter} out"
        if isinstance(spec.observer, Search):
            return (
                "its mse and imatrix_mse go along a grid of ranges, not from code to code of scales; use minmax or mse"
            )
        if isinstance(spec.observer, Percentile):
            return f"it has no percentile observer such as {spec.observer}; use minmax, mse or ema"
        if spec.dynamic and spec.observer != MinMax():
            return f"its dynamic ranges are min and max; leave {spec.observer} out"
    if scheme.weights is None and scheme.activations is not None:
        return "its formats are about weights; add w:int8/channel"
    for transform in scheme.transforms:
        if (reason := why_not_treating(transform)) is not None:
            return reason
    if (method := scheme.method).name not in MODIFIERS:
        return f"it has no {method.name}; use {' or '.join(MODIFIERS)}"
    if method.keeps_g_idx:
        return "it has dropped actorder=group; use actorder=weight"
    ((kind, body),) = modifier(method, {}).items()
    if lost := set(str(method).split("/")) - set(str(method_of(kind, body)).split("/")):
        return f"its {kind} has no such option; leave /{lost.pop()} out"
    return None


def plan_from_recipe(text: str) -> Plan:
    """The plan that a recipe says: to one that `recipe` wrote, the plan that it was written from.

    Names mean what compressed-tensors' `match_name` means by them: a plain one is a layer's whole name, one behind re:
    a regular expression that fits from the name's first sign on. Of several targets that fit a layer a whole name goes
    before an expression, and among those the first of the alphabet; what a modifier ignores it never quantizes.

    Raises: ValueError for what is no such recipe."""
    skips, ignored = list[str](), list[str]()
    overrides: list[tuple[_Regex, Scheme]] = []
    theirs: dict[str, Scheme] = {}
    every = modifiers(text)
    transforms = [transform_of(kind, body) for kind, body in every if kind in TREATING.values()]
    said = [(kind, body) for kind, body in every if kind not in TREATING.values()]
    for kind, body in said:
        method, own = method_of(kind, body), [_read_name(one) for one in body.get("ignore") or []]
        for read in own:
            if read.later is None:
                (ignored if read.pattern.startswith(REGEX) else skips).append(read.pattern)
            else:
                overrides.append((read, Scheme()))
        for group in _groups(body):
            scheme = Scheme(spec_of(group.get("weights"), True), spec_of(group.get("input_activations"), False), method)
            for target in group["targets"]:
                read = _Regex("", None) if target == EVERY_LINEAR else _read_name(target)
                if read.pattern and read in own:
                    continue  # what a modifier ignores it never quantizes
                if read.later is not None:
                    overrides.append((read, scheme))
                elif theirs.setdefault(read.pattern, scheme) != scheme:
                    raise ValueError(f"the recipe gives {quoted(target)} two schemes; leave one of them out")
    default = theirs.pop("", Scheme(skip=()))
    quantized = {read for read, scheme in overrides if not scheme.is_float}  # what one modifier has, others ignore
    kept = dict.fromkeys((read, scheme) for read, scheme in overrides if not scheme.is_float or read not in quantized)
    ordered = sorted(kept, key=lambda one: -(one[0].later or 0))
    if HEAD in skips and any(fits(one, HEAD) for one in theirs):
        ignored += [one for one in skips if one == HEAD]  # one modifier may quantize what another leaves to it
        skips = [one for one in skips if one != HEAD]
    skip = tuple(dict.fromkeys([*skips, *_ignored_by_all(ignored, theirs, len(said))]))
    targets = [(_without(pattern, skip), theirs[pattern]) for pattern in sorted(theirs, key=_rank)]
    default = replace(default, skip=skip, transforms=_done(transforms), kv=_cache([body for _, body in said]))
    return Plan(default, (*((read.pattern, scheme) for read, scheme in ordered), *targets))


def _cache(bodies: Sequence[Entry]) -> CacheSpec | None:
    """The cache that the modifiers say. Raises: ValueError for two that differ."""
    found = list(dict.fromkeys(cache_of(body["kv_cache_scheme"]) for body in bodies if "kv_cache_scheme" in body))
    if len(found) > 1:
        raise ValueError(f"the recipe's modifiers say {found[0]} and {found[1]} of one cache; leave one of them out")
    return found[0] if found else None


def _done(transforms: Sequence[Transform | None]) -> tuple[Transform, ...]:
    """The recipe's transforms. Raises: ValueError for one that it has twice."""
    found = in_order(tuple(one for one in transforms if one is not None))
    if len({type(one) for one in found}) < len(found):
        raise ValueError(f"the recipe has {' and '.join(map(str, found))}, of one kind; leave one of them out")
    return found


def _ignored_by_all(ignored: Sequence[str], targets: Collection[str], modifiers: int) -> list[str]:
    """What every modifier ignores. Raises: ValueError for what one ignores, and no other takes by the same words."""
    alone = [one for one in ignored if ignored.count(one) < modifiers and one not in targets]
    if alone:
        raise ValueError(
            f"one of the recipe's {modifiers} modifiers ignores {quoted(alone[0])}, which the others neither ignore "
            "nor target by these words; say it in all of them"
        )
    return [one for one in ignored if one not in targets]


def _rank(pattern: str) -> tuple[bool, Sequence[int]]:
    """Sorts patterns so that the last that fits decides as compressed-tensors does: a whole name, then the first of the
    alphabet."""
    said = expression(pattern)
    return re.fullmatch(r"\w+(\[\.\]\w+)+\$", said) is not None, [-ord(sign) for sign in said]


def _without(pattern: str, skip: Sequence[str]) -> str:
    """The pattern without the names that are skipped, since an exception goes before skip=."""
    shut_out = "".join(f"(?!{_run(one)})" for one in skip)
    return written(f"{shut_out}{_run(pattern)}") if shut_out else pattern


class _Regex(NamedTuple):
    """A pattern of ours, and how many patterns of later exceptions it shuts out; None: it is a skip."""

    pattern: str
    later: int | None


def _regex(pattern: str, later: Sequence[str], skip: bool = False) -> str:
    """The names that a pattern fits and none of `later` does. A skip has .+ where an exception has .*, which says the
    same of dotted names and tells the two apart when they are read back."""
    shut_out = "".join(f"(?!{_run(one)})" for one in later)
    return f"{REGEX}{shut_out}{_run(pattern, '+' if skip else '*', bool(later))}"


def _run(pattern: str, some: str = "*", within: bool = True) -> str:
    if pattern.startswith(REGEX):
        said = expression(pattern)
        return f"(?:{said})" if within and "|" in said else said
    return f"(.{some}[.])?{pattern.replace('.', '[.]')}([.].*)?$"


def _skip(name: str, overridden: Sequence[str]) -> str:
    """A module that stays float unless an exception fits it; the head in the usual way of writing."""
    usual = name == HEAD and not any(fits(pattern, HEAD) for pattern in overridden)
    return f"re:.*{HEAD}" if usual else _regex(name, overridden, skip=True)


def _read_name(text: str) -> _Regex:
    """What a name of a recipe means: the inverse of `_regex` and `_skip`, or an expression of somebody else's.

    Raises: ValueError for a plain word, which there is a whole name or a class, so that it fits no layer."""
    run = r"\(\.[*+]\[\.\]\)\?((?:\w|\[\.\])+)\(\[\.\]\.\*\)\?\$"
    if match := re.fullmatch(rf"re:((?:\(\?!{run}\))*){run}", text):
        return _Regex(match[3].replace("[.]", "."), match[1].count("(?!") if f"(.*[.])?{match[3]}" in text else None)
    if text in (HEAD, f"re:.*{HEAD}"):
        return _Regex(HEAD, None)
    if text.startswith(REGEX):
        return _Regex(written(text.removeprefix(REGEX)), None)
    if re.fullmatch(r"\w+([.]\w+)+", text):
        return _Regex(written(text.replace(".", "[.]") + WHOLE), None)
    raise ValueError(
        f"the recipe's {quoted(text)} is a whole name or a class there, and no Linear is called so; write an "
        "expression, as in re:.*mlp.gate$"
    )


def _modifier(
    method: Method, default: Scheme, regexes: Sequence[tuple[Scheme, list[str]]], skipped: Sequence[str]
) -> Entry:
    """The modifier that quantizes the layers of one method, and ignores all that another one or none does."""
    groups = [(one, targets) for one, targets in regexes if one.method == method and not one.is_float]
    others = [target for one, targets in regexes if one.method != method or one.is_float for target in targets]
    if default.method == method and not default.is_float:
        groups.append((default, [EVERY_LINEAR]))
    body: Entry = {
        "config_groups": {
            f"group_{place}": {
                "targets": list(targets),
                **_arguments(one),
            }
            for place, (one, targets) in enumerate(groups)
        },
        "ignore": [*skipped, *others],
    }
    return modifier(method, body)


def _arguments(scheme: Scheme) -> Entry:
    return {
        "weights": None if scheme.weights is None else observed(scheme.weights, True),
        "input_activations": None if scheme.activations is None else observed(scheme.activations, False),
    }


def _groups(body: Entry) -> list[Entry]:
    """The config groups of a modifier; a preset's name as scheme is one over its targets. Raises: ValueError."""
    if "scheme" in body and "config_groups" in body:
        raise ValueError("the recipe's modifier has a scheme and config_groups, and they say the same; leave one out")
    if "scheme" in body:
        named, targets = body["scheme"], body.get("targets", [EVERY_LINEAR])
        presets = named if isinstance(named, dict) else {named: targets}
        return [{"targets": those, **_arguments(Scheme.parse(name))} for name, those in presets.items()]
    if "config_groups" not in body and "kv_cache_scheme" in body:
        return []  # the cache alone
    if "config_groups" not in body:
        raise ValueError("the recipe's modifier has neither a scheme nor config_groups; add one of them")
    for name, group in body["config_groups"].items():
        if not group.get("targets"):
            raise ValueError(f"the recipe's {quoted(name)} names no targets; add some, as in targets: [Linear]")
    return list(body["config_groups"].values())
