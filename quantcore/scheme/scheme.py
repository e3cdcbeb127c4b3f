"""A scheme says, in one line of text, how a model is quantized; this file is that language and holds no tensor.

    w:int4/group128                                  weights only, symmetric, round to nearest
    w:int4/group128/asym                             with a zero point
    w:int8/channel,a:int8/token/dynamic              W8A8: activations' ranges are taken at run time
    w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static/p99.9 static: range frozen beforehand, here at the 99.9th percentile
    w:fp4_e2m1/group16/e4m3,a:fp4_e2m1/group16/e4m3/local   scales in fp8 under a global one, that of inputs frozen
    w:int4/group128/jitter3                          the same with other rounding luck: scales moved within half a grain
    w:int4/group128,gptq/actorder=weight             GPTQ with reordering, instead of rounding to nearest
    w:int4/group128,kv:fp8_e4m3/tensor/static        the KV cache too; k:... and v:... apart: see `cache`
    w:int4/group128,skip=lm_head,skip=down_proj      modules that stay float, by name or part of it (`patterns`)
    w:int4/group128,gptq,experts=all                 while calibrating, every expert sees every token
    W8A8,smooth=0.5                                  a transform before coding: see `methods.transforms.options`
    float                                            nothing is quantized

`Scheme.parse(str(scheme)) == scheme`. The same text is cache key, URL value, table label and command line argument, so
it needs no quoting in a shell or a URL. Preset names (compressed-tensors') parse too: `W4A16`, `FP8_DYNAMIC,skip=none`;
their groups are of 128, or of what fits a model (`fitting`). What cannot be is refused where it is built, with the way
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from quantcore.methods.options import METHODS, Method, Rtn, parse_method
from quantcore.methods.transforms.options import (
    TRANSFORMS,
    Transform,
    in_order,
    is_transform,
    parse_transform,
    why_not_together,
)
from quantcore.numbers.bits import Coded
from quantcore.numbers.granularity import (
    Granularity,
    PerBlock,
    PerChannel,
    PerGroup,
    PerHead,
    PerTensor,
    PerToken,
)
from quantcore.numbers.spec import MovingAverage, QuantSpec, Search
from quantcore.scheme.cache import CACHED, CacheSpec, parse_cache
from quantcore.scheme.patterns import fits, is_pattern, require_quick
from quantcore.scheme.spec_text import observer_suffix, parse_spec, when_of

LONGEST_TEXT = 4000  # a recipe may leave dozens of layers float, each by an expression
EVERY_TOKEN = "experts=all"
HEAD = "lm_head"  # a model's output head, whatever the model calls it
PRESET_GRAIN = PerGroup(128)


@dataclass(frozen=True)
class Scheme:
    """weights and activations (None: stay float), the method for the weights, the modules left alone, whether each
    expert of a mixture sees every token while it is calibrated, not only those that the router gives it, the
    transforms of the model before anything is coded, in the order in which they are done, and what the whole model's
    KV cache holds (None: floats)."""

    weights: QuantSpec | None = None
    activations: QuantSpec | None = None
    method: Method = Rtn()
    skip: tuple[str, ...] = (HEAD,)
    every_token: bool = False
    transforms: tuple[Transform, ...] = ()
    kv: CacheSpec | None = None

    def __post_init__(self) -> None:
        self._check_transforms()
        if self.weights is not None:
            _check_weights(self.weights)
        if self.activations is not None:
            _check_activations(self.activations)
        if self.method != Rtn() and self.weights is None:
            raise ValueError(f"{self.method} places the codes of weights, and these stay float; add w:int4/group128")
        if self.method.needs_coded_scales and self.weights is not None and not self.weights.scales.is_coded:
            raise ValueError(
                f"{self.method} goes from code to code of scales, and {self.weights.scales} has none; use clip, or e8m0"
            )
        if self.every_token and not self.of_layers.needs_text:
            raise ValueError(
                f"{EVERY_TOKEN} says what experts see while they are calibrated, and "
                f"{replace(self, every_token=False)} reads no text; leave it out, or add gptq"
            )
        for part in self.skip:
            require_quick(part)
            if not is_pattern(part):
                raise ValueError(f"skip={part!r} is no module name; use letters, digits, _ and ., as in skip=layers.0")

    def _check_transforms(self) -> None:
        words = ",".join(map(str, self.transforms))
        if self.transforms and self.is_float:
            raise ValueError(
                f"{words} makes codes easier to place, and nothing is quantized; add w:int8/channel, or leave it out"
            )
        if (reason := why_not_together(self.transforms)) is not None:
            raise ValueError(reason)
        if self.transforms != in_order(self.transforms):
            raise ValueError(f"{words} is not the order in which transforms are done; sort them by `in_order`")

    def __str__(self) -> str:
        parts = []
        if self.weights is not None:
            parts.append(f"w:{self.weights}{observer_suffix(self.weights)}")
        if self.activations is not None:
            parts.append(f"a:{self.activations}/{when_of(self.activations)}{observer_suffix(self.activations)}")
        if self.kv is not None:
            parts.append(str(self.kv))
        if not parts:
            parts.append("float")
        parts.extend(map(str, self.transforms))
        if self.method != Rtn():
            parts.append(str(self.method))
        if self.every_token:
            parts.append(EVERY_TOKEN)
        if self.skip != (HEAD,):
            parts.extend(f"skip={name}" for name in self.skip or ("none",))
        return ",".join(parts)

    @staticmethod
    @lru_cache(4096)  # a page asks for the same few thousands of times
    def parse(text: str, grain: Granularity = PRESET_GRAIN) -> Scheme:
        """The scheme that a text (or a preset's name) says; `grain` stands where presets have groups.

        Raises: ValueError with what, where and the way out."""
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"a scheme text of {len(text)} characters is too long; the limit is {LONGEST_TEXT}")
        parts = [part.strip() for part in text.split(",")]
        if not text.strip():
            raise ValueError("the scheme text is empty; try w:int4/group128, or W4A16")
        scheme = Scheme()
        start = parts[0]
        if start.upper() in PRESETS:
            scheme = _with_grain(PRESETS[start.upper()], grain)
            parts = parts[1:]
        elif start == "float":
            parts = parts[1:]
        skip: list[str] = []
        method: Method | None = None
        transforms: list[Transform] = []
        every_token = False
        seen: set[str] = set()
        cached: dict[str, str] = {}
        for part in parts:
            key, value = _split_part(part)
            if key != "skip" and key in seen:
                raise ValueError(f"{text!r} says {key!r} twice; say it once")
            seen.add(key)
            if key == "w":
                scheme = replace(scheme, weights=parse_spec(value, activation=False))
            elif key == "a":
                scheme = replace(scheme, activations=parse_spec(value, activation=True))
            elif key in CACHED:
                cached[key] = value
            elif key == "method":
                method = parse_method(value)
            elif key in TRANSFORMS:
                transforms += [one] if (one := parse_transform(value)) is not None else []
            elif key == "skip":
                skip.append(value)
            elif key == "experts":
                every_token = True
        if cached:
            scheme = replace(scheme, kv=parse_cache(cached))
        if skip:
            scheme = replace(scheme, skip=() if skip == ["none"] else tuple(skip))
        if method is not None:
            scheme = replace(scheme, method=method)
        if transforms:
            scheme = replace(scheme, transforms=in_order(tuple(transforms)))
        return replace(scheme, every_token=True) if every_token else scheme

    @property
    def label(self) -> str:
        """The preset's name where there is one, with the transforms behind it, else the text."""
        plain = replace(self, transforms=(), kv=None, every_token=False) if self.transforms or self.kv else self
        name = next((name for name, preset in PRESETS.items() if preset == plain), None)
        if name is None or self.every_token:
            return str(self)
        return ",".join([name, *([str(self.kv)] if self.kv else []), *map(str, self.transforms)])

    @property
    def is_float(self) -> bool:
        """Whether no Linear is quantized; the cache may be all the same."""
        return self.weights is None and self.activations is None

    @property
    def of_layers(self) -> Scheme:
        """What the scheme says of Linears: the cache is the whole model's."""
        return self if self.kv is None else replace(self, kv=None)

    @property
    def needs_ranges(self) -> bool:
        """Whether the activations' range is frozen beforehand, so that it must be recorded."""
        return self.activations is not None and self.activations.static

    @property
    def without_text(self) -> Scheme:
        """The same codes placed without a text: rounded to nearest, in the model as it is by then."""
        weights = None if self.weights is None else self.weights.unweighted
        return replace(self, weights=weights, method=Rtn(), every_token=self.every_token and self.needs_ranges)

    @property
    def needs_hessian(self) -> bool:
        """Whether the method, or the range of a weight, weighs errors with X^T X of the layers' inputs."""
        return self.method.needs_hessian or (self.weights is not None and self.weights.weighs_columns)

    @property
    def needs_drift(self) -> bool:
        """Whether the method wants to know how far quantized layers before have moved the layers' inputs."""
        return self.method.needs_drift

    @property
    def needs_text(self) -> bool:
        """Whether quantizing needs calibration text."""
        return (
            self.needs_ranges
            or self.needs_hessian
            or (self.kv is not None and self.kv.needs_ranges)
            or any(one.needs_text for one in self.transforms)
        )

    @property
    def plain(self) -> Scheme:
        """The same without its transforms: what is left to do in a model that is transformed."""
        left = replace(self, transforms=(), every_token=False)
        return replace(left, every_token=self.every_token and left.of_layers.needs_text)

    @property
    def keeps_g_idx(self) -> bool:
        """Whether the quantized weights carry the group of each column."""
        return self.weights is not None and self.method.keeps_g_idx and self.weights.granularity.groups_columns

    def coded(self, shape: tuple[int, int]) -> Coded | None:
        """A Linear of that shape as it is counted (`numbers.bits`); None where its weight stays float."""
        return None if self.weights is None else Coded(shape, self.weights, self.activations, self.keeps_g_idx)

    def skips(self, module_name: str) -> bool:
        """Whether a module stays float: a skip entry is its name, a run of whole parts of it, or an expression."""
        return any(fits(part, module_name) for part in self.skip)


def coded_under(shapes: Mapping[str, tuple[int, int]], schemes: Mapping[str, Scheme]) -> dict[str, Coded]:
    """The layers whose weights become codes, of Linears by name with their shapes and their schemes."""
    found = {name: scheme.coded(shapes[name]) for name, scheme in schemes.items()}
    return {name: coded for name, coded in found.items() if coded is not None}


def _with_grain(preset: Scheme, grain: Granularity) -> Scheme:
    """The preset with its weights' groups as `grain` has them."""
    if preset.weights is None or preset.weights.granularity != PRESET_GRAIN:
        return preset
    return replace(preset, weights=replace(preset.weights, granularity=grain))


def _check_weights(spec: QuantSpec) -> None:
    if isinstance(spec.granularity, PerHead):
        raise ValueError(
            "weights have no heads of a cache, so they cannot be quantized per head; try channel or group128"
        )
    if isinstance(spec.granularity, PerToken):
        raise ValueError("weights have no tokens, so they cannot be quantized per token; try channel or group128")
    if spec.dynamic:
        raise ValueError("weights do not change at run time, so they cannot be dynamic; leave out dynamic")
    if isinstance(spec.observer, MovingAverage):
        raise ValueError("weights are seen once, so a moving average has no meaning; try minmax, mse or p99.9")


def _check_activations(spec: QuantSpec) -> None:
    if spec.jitter:
        raise ValueError("jitter moves the scales of weights; leave it out of a:...")
    if isinstance(spec.observer, Search):
        raise ValueError("search is for weights, which are coded once; leave it out of a:...")
    if isinstance(spec.granularity, PerHead):
        raise ValueError("what enters a Linear has no heads, so it cannot be quantized per head; try token or tensor")
    if isinstance(spec.granularity, PerChannel | PerBlock):
        raise ValueError(
            f"activations cannot be quantized per {spec.granularity}: their scale must leave the sum over in_features; "
            "try token, tensor or group128"
        )
    if spec.scales.has_global and not spec.local:
        raise ValueError(
            f"activations with scales in {spec.scales} have their global scale frozen and the others taken at run "
            "time; write /local"
        )
    if spec.static and not spec.local and not isinstance(spec.granularity, PerTensor):
        raise ValueError(
            f"static per-{spec.granularity} activations cannot be: tomorrow's tokens have no recorded scale; "
            "try tensor/static, or token/dynamic"
        )


def _split_part(part: str) -> tuple[str, str]:
    if part.split("/")[0] in METHODS:
        return "method", part
    if is_transform(part):
        return re.split("[=/]", part)[0], part
    if part == EVERY_TOKEN:
        return "experts", part
    if part.startswith("experts="):
        raise ValueError(f"cannot read {part!r}; write {EVERY_TOKEN}, or leave it out: the router chooses then")
    for key, mark in (("w", "w:"), ("a", "a:"), *((one, f"{one}:") for one in CACHED), ("skip", "skip=")):
        if part.startswith(mark) and len(part) > len(mark):
            return key, part[len(mark) :]
    if "@" in part:
        raise ValueError(
            f"{part!r} has exceptions behind @, which a plan has, and one scheme is asked for; leave them out"
        )
    known = [*(one.usage.split(" ")[0] for one in TRANSFORMS.values()), *METHODS]
    raise ValueError(
        f"cannot read {part!r}; a scheme's parts are w:..., a:..., {', '.join(known)}, {EVERY_TOKEN}, kv:... and "
        f"skip=..., "
        f"or start with W2A16 to W8A16, W2A8 to W7A8, W2A4 to W4A4, {', '.join(OTHER_PRESETS)}"
    )


def _int_presets() -> dict[str, str]:
    """compressed-tensors' WxAy family: groups of 128; activations, where they are quantized, per token at run time."""
    presets = {f"W{bits}A16": f"w:int{bits}/group128" for bits in range(2, 9)}
    presets |= {f"W{bits}A8": f"w:int{bits}/group128,a:int8/token/dynamic" for bits in range(2, 8)}
    presets |= {f"W{bits}A4": f"w:int{bits}/group128,a:int4/token/dynamic" for bits in range(2, 5)}
    return presets


OTHER_PRESETS = {
    "W4A16_ASYM": "w:int4/group128/asym",
    "W8A8": "w:int8/channel,a:int8/token/dynamic",
    "W4AFP8": "w:int4/group128,a:fp8_e4m3/token/dynamic",
    "FP8": "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static",
    "FP8_DYNAMIC": "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic",
    "FP8_BLOCK": "w:fp8_e4m3/block128x128,a:fp8_e4m3/group128/dynamic",
    "NVFP4A16": "w:fp4_e2m1/group16/e4m3",
    "NVFP4": "w:fp4_e2m1/group16/e4m3,a:fp4_e2m1/group16/e4m3/local",
    "MXFP4A16": "w:fp4_e2m1/group32/e8m0",
    "MXFP4": "w:fp4_e2m1/group32/e8m0,a:fp4_e2m1/group32/e8m0/dynamic",
    "MXFP4XFP8": "w:fp4_e2m1/group32/e8m0,a:fp8_e4m3/group128/dynamic",
    "MXFP6A16": "w:fp6_e2m3/group32/e8m0",
    "MXFP6A8": "w:fp6_e2m3/group32/e8m0,a:fp8_e4m3/group32/e8m0/dynamic",
    "MXFP8A16": "w:fp8_e4m3/group32/e8m0",
    "MXFP8": "w:fp8_e4m3/group32/e8m0,a:fp8_e4m3/group32/e8m0/dynamic",
}
PRESETS: dict[str, Scheme] = {}
for _name, _text in {**_int_presets(), **OTHER_PRESETS}.items():
    PRESETS[_name] = Scheme.parse(_text)
