"""A scheme as one line of text with a builder beside it; the text is the state, the builder only rewrites it.

    scheme = scheme_editor("A", "w:int4/channel", key="a", lab=lab)

The line is bound to the URL under its key. The builder's menus are set from the text at each run, and a menu that is
moved rewrites the text in its callback, so the two cannot disagree. What cannot be is not offered: a menu holds only
what goes with the other menus and divides the layer, besides what the text already says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.methods.options import METHODS, Method, Rtn, parse_method
from quantcore.numbers.formats import FORMATS, format_named
from quantcore.numbers.granularity import (
    Granularity,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    largest_divisor,
    parse_granularity,
)
from quantcore.numbers.scales import SCALES
from quantcore.numbers.spec import MinMax, MovingAverage, Mse, QuantSpec, Search, parse_observer
from quantcore.scheme.fitting import fitting_grain, why_grain
from quantcore.scheme.scheme import PRESETS, Scheme
from quantcore.scheme.spec_text import when_of
from quantcore.studies.granularity import BLOCK_SIZES, GROUP_SIZES
from ui import widgets as controls

FIRST_WEIGHTS = QuantSpec(FORMATS["int4"], PerChannel())
FIRST_ACTIVATIONS = QuantSpec(FORMATS["int8"], PerToken(), dynamic=True)
OBSERVERS = ("minmax", "mse", "p99", "p99.9", "p99.99")
AVERAGES = ("ema0.01", "ema0.1", "ema0.5")
MENUS = (
    "In their order: the format of the numbers; of activations, when their range is found; who shares a scale, and how "
    "large a group is; how the scale itself is stored; from what the range is found; symmetric, or with a zero point; "
    "of weights, the method that picks the codes (`rtn`: the nearest)."
)
CUSTOM = "no preset"
SYMMETRIC, ASYMMETRIC = "symmetric", "asymmetric"
Change = Callable[[QuantSpec, str], QuantSpec]


def scheme_editor(label: str, default: str, key: str, lab: Lab) -> Scheme:
    """Text line, presets and menus of one scheme under a Markdown label: `scheme_line` and `scheme_menus`."""
    scheme = scheme_line(label, default, key, lab)
    scheme_menus(scheme, key)
    return scheme


def scheme_line(label: str, default: str, key: str, lab: Lab) -> Scheme:
    """The text line and the presets, under a Markdown label; presets have the group that fits the lab's model.

    Raises: ValueError where the text cannot be read; line and presets stay, to mend it."""
    st.markdown(label)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        text = controls.line(f"scheme {key.upper()}", default, key, label_visibility="collapsed")
        presets = st.container(width=125)
    scheme, problem = None, None
    try:
        scheme = lab.scheme_of(text)
    except ValueError as error:
        problem = error
    known = _presets(lab.grain)
    names = [CUSTOM, *PRESETS]
    current = next((name for name, preset in known.items() if preset == scheme), CUSTOM)
    with presets:
        _menu(f"preset of {key.upper()}", names, current, f"{key}.preset", _take_preset, key, known)
    st.session_state[f"_{key}.full"] = None if scheme is None else str(scheme)  # what a menu's callback starts from
    if scheme is None:
        raise problem or ValueError(f"cannot read {text!r}")
    return scheme


@lru_cache(maxsize=8)
def _presets(grain: str) -> dict[str, Scheme]:
    """Every preset on a model of this grain."""
    return {name: Scheme.parse(name, parse_granularity(grain)) for name in PRESETS}


def scheme_menus(scheme: Scheme, key: str, shape: tuple[int, int] | None = None) -> None:
    """The builder of a scheme; `shape` (O, K) limits the tiles offered to those that divide it."""
    _builder(key, "weights", scheme.weights, shape, scheme.method)
    _builder(key, "activations", scheme.activations, shape)


def grain_words(lab: Lab) -> str:
    """What a preset's group is on this model."""
    return f"Presets such as `W4A16` have {why_grain(lab.shapes())}."


def copy_scheme(source: str, target: str) -> None:
    """The text of one editor into another; a callback, given the editors' keys."""
    st.session_state[target] = st.session_state[source]


def swap_schemes(one: str, other: str) -> None:
    """Exchange the texts of two editors; a callback."""
    st.session_state[one], st.session_state[other] = st.session_state[other], st.session_state[one]


def _builder(
    key: str, part: str, spec: QuantSpec | None, shape: tuple[int, int] | None, method: Method | None = None
) -> None:
    """The menus of the weights, with their method, or of the activations, in a row that wraps."""
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.session_state[f"{key}.{part}"] = spec is not None
        st.toggle(part, key=f"{key}.{part}", on_change=_turn, args=(key, part), width=112)
        if spec is None:
            return

        def menu(name: str, options: Sequence[str], current: str, change: Change, width: int) -> None:
            with st.container(width=width):
                _menu(
                    f"{name} of {key.upper()}'s {part}",
                    options,
                    current,
                    f"{key}.{part}.{name}",
                    _edit,
                    key,
                    part,
                    change,
                )

        menu("format", list(FORMATS), spec.fmt.name, _with_format, 118)
        if part == "activations":
            menu("range", ["local"] if spec.local else ["dynamic", "static"], when_of(spec), _with_range, 108)
        menu("granularity", _kinds(part, spec), _kind(spec.granularity), _with_kind(shape), 108)
        if sizes := _sizes(spec.granularity, shape):
            menu("size", sizes, str(spec.granularity), _with_size, 125)
        if isinstance(spec.granularity, PerGroup) or spec.scales.is_coded:
            menu("scales", list(SCALES), str(spec.scales), _with_scales(part), 98)
        averages = AVERAGES if part == "activations" and not spec.dynamic else ()
        observers = [text for text in OBSERVERS if not (spec.local and text == str(Mse()))]
        observers += [str(Search()), str(Search(True))] * (part == "weights" and spec.scales.is_coded)
        menu("observer", [*observers, *averages], str(spec.observer), _with_observer, 112)
        if not (spec.fmt.is_float or spec.fmt.name.endswith("_narrow") or spec.scales.is_coded):
            menu(
                "zero point",
                [SYMMETRIC, ASYMMETRIC],
                SYMMETRIC if spec.symmetric else ASYMMETRIC,
                _with_zero_point,
                130,
            )
        if method is not None:
            with st.container(width=190):
                kinds = [one for one in METHODS.values() if spec.scales.is_coded or not one.needs_coded_scales]
                offered = [str(one) for kind in kinds for one in kind.offered()]
                _menu(f"method of {key.upper()}", offered, str(method), f"{key}.method", _take_method, key)


def _menu(
    label: str, options: Sequence[str], current: str, key: str, change: Callable[..., None], *args: object
) -> None:
    """A menu that shows `current` (added where it is not on offer) and hands a new choice to `change`."""
    st.session_state[key] = current
    offered = list(options) if current in options else [*options, current]
    st.selectbox(label, offered, key=key, on_change=change, args=(*args, key), label_visibility="collapsed")


def _take_preset(text_key: str, known: Mapping[str, Scheme], menu_key: str) -> None:
    name = st.session_state[menu_key]
    if name != CUSTOM:
        st.session_state[text_key] = str(known[name])


def _take_method(text_key: str, menu_key: str) -> None:
    method = parse_method(st.session_state[menu_key])
    st.session_state[text_key] = str(replace(_written(text_key), method=method))


def _written(text_key: str) -> Scheme:
    """The scheme of the line as it was drawn, presets with the model's group."""
    return Scheme.parse(st.session_state[f"_{text_key}.full"])


def _turn(text_key: str, part: str) -> None:
    """Switch weights or activations on, with a first choice, or off."""
    first = FIRST_WEIGHTS if part == "weights" else FIRST_ACTIVATIONS
    _rewrite(text_key, part, first if st.session_state[f"{text_key}.{part}"] else None)


def _edit(text_key: str, part: str, change: Change, menu_key: str) -> None:
    spec = getattr(_written(text_key), part)
    _rewrite(text_key, part, change(spec, st.session_state[menu_key]))


def _rewrite(text_key: str, part: str, spec: QuantSpec | None) -> None:
    scheme = _written(text_key)
    lost = part == "weights" and (spec is None or (scheme.method.needs_coded_scales and not spec.scales.is_coded))
    if lost:
        scheme = replace(scheme, method=Rtn())  # no codes are left to place, or none of scales
    if spec is None and (scheme.activations if part == "weights" else scheme.weights) is None:
        scheme = replace(scheme, transforms=(), every_token=False)  # nothing is left to make easier
    scheme = replace(scheme, weights=spec) if part == "weights" else replace(scheme, activations=spec)
    st.session_state[text_key] = str(scheme)


def _with_format(spec: QuantSpec, name: str) -> QuantSpec:
    fmt = format_named(name)
    return replace(spec, fmt=fmt, symmetric=spec.symmetric or fmt.is_float or name.endswith("_narrow"))


def _with_range(spec: QuantSpec, when: str) -> QuantSpec:
    """Static ranges are per tensor; a dynamic one has no moving average."""
    if when == "static":
        return replace(spec, dynamic=False, granularity=PerTensor())
    observer = MinMax() if isinstance(spec.observer, MovingAverage) else spec.observer
    return replace(spec, dynamic=True, observer=observer)


def _with_scales(part: str) -> Change:
    """Other scales; coded ones are of symmetric codes, and e4m3's of inputs are taken at run time."""

    def change(spec: QuantSpec, name: str) -> QuantSpec:
        scales, observer = SCALES[name], spec.observer
        local = part == "activations" and scales.has_global
        dynamic = spec.dynamic or local
        if (
            (isinstance(observer, Search) and not scales.is_coded)
            or (local and observer == Mse())
            or (dynamic and not local and isinstance(observer, MovingAverage))
        ):
            observer = MinMax()
        symmetric, jitter = spec.symmetric or scales.is_coded, spec.jitter if scales.has_grain else 0
        return replace(spec, scales=scales, observer=observer, dynamic=dynamic, symmetric=symmetric, jitter=jitter)

    return change


def _with_observer(spec: QuantSpec, text: str) -> QuantSpec:
    return replace(spec, observer=parse_observer(text))


def _with_zero_point(spec: QuantSpec, text: str) -> QuantSpec:
    return replace(spec, symmetric=text == SYMMETRIC)


def _with_size(spec: QuantSpec, text: str) -> QuantSpec:
    return replace(spec, granularity=parse_granularity(text))


def _with_kind(shape: tuple[int, int] | None) -> Change:
    """Another granularity, its tile the largest on offer up to 128."""

    def change(spec: QuantSpec, kind: str) -> QuantSpec:
        fixed: dict[str, Granularity] = {"tensor": PerTensor(), "channel": PerChannel(), "token": PerToken()}
        sides = [128, 128] if shape is None else [largest_divisor(size, 128) for size in shape]
        group = PerGroup(128) if shape is None else fitting_grain({"": shape})
        group = group if isinstance(group, PerGroup) else PerGroup(sides[1])
        tiles: dict[str, Granularity] = {"group": group, "block": PerBlock(sides[0], sides[1])}
        return replace(spec, granularity={**fixed, **tiles}[kind])

    return change


def _kinds(part: str, spec: QuantSpec) -> list[str]:
    if part == "weights":
        return ["tensor", "channel", "group", "block"]
    return ["token", "tensor", "group"] if spec.dynamic else ["tensor"]


def _kind(granularity: Granularity) -> str:
    return str(granularity).rstrip("0123456789x") if isinstance(granularity, PerGroup | PerBlock) else str(granularity)


def _sizes(granularity: Granularity, shape: tuple[int, int] | None) -> list[str]:
    """The group sizes or blocks that divide the layer, none for other granularities."""
    if isinstance(granularity, PerGroup):
        sizes = GROUP_SIZES if shape is None else _dividing(shape[1], GROUP_SIZES)
        return [str(PerGroup(size)) for size in sizes]
    if isinstance(granularity, PerBlock):
        rows, cols = (BLOCK_SIZES, BLOCK_SIZES) if shape is None else (_dividing(n, BLOCK_SIZES) for n in shape)
        return [str(PerBlock(r, c)) for r in rows for c in cols]
    return []


def _dividing(whole: int, sizes: Sequence[int]) -> list[int]:
    """Those of the usual sizes that divide `whole`; where none does, for each the largest divisor below it."""
    usual = [size for size in sizes if whole % size == 0]
    return usual or sorted({largest_divisor(whole, size) for size in sizes})
