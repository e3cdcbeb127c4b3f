"""Our formats, granularities, observers, methods and layouts in the words of compressed-tensors and llm-compressor.

    arguments(spec)      the fields of their QuantizationArgs         spec_of(entry, weights)   the spec that they say
    modifier(method)     the modifier that quantizes by it            method_of(kind, body)     the method that it says
    treating(transform)  the modifier that does it before             transform_of(kind, body)  the transform that it is
    LAYOUTS              how a checkpoint's formats keep codes        strategy(spec)            their word for its tiles

One table, read in both directions; what is not in it they have not. Observers: "minmax" is a moving average there, our
ema; min-max is memoryless_minmax for weights and static_minmax for activations. Checked against compressed-tensors 0.20
and llm-compressor 0.14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantcore.methods.options import METHODS, Method
from quantcore.methods.transforms.awq import RATIOS
from quantcore.methods.transforms.options import Awq, Quip, Rotate, Smooth, Transform
from quantcore.numbers.bits import Layout, close, in_bytes, in_words, sharing_bytes
from quantcore.numbers.formats import Format, format_named
from quantcore.numbers.granularity import Granularity, PerBlock, PerChannel, PerGroup, PerHead, PerTensor, PerToken
from quantcore.numbers.scales import E4M3, E8M0, FLOAT, ScaleFormat
from quantcore.numbers.spec import MinMax, MovingAverage, Mse, Observer, QuantSpec

Entry = dict[str, Any]

FORMATS = {
    "fp8_e4m3": ("float", 8),
    "fp6_e2m3": ("float", 6),
    "fp4_e2m1": ("float", 4),
    **{f"int{bits}": ("int", bits) for bits in range(2, 9)},
}
STRATEGIES: dict[type[Granularity], str] = {
    PerTensor: "tensor", PerChannel: "channel", PerToken: "token", PerGroup: "group", PerBlock: "block",
    PerHead: "attn_head",
}  # fmt: skip
UNDER_GLOBAL, LOCAL = "tensor_group", "local"  # a strategy of groups, and how their inputs' scales are taken
CODED = {  # which tiles of which formats have coded scales, and how a group's strategy is written
    "e8m0": (PerGroup(32), ("fp4_e2m1", "fp6_e2m3", "fp8_e4m3")),
    "e4m3": (PerGroup(16), ("fp4_e2m1",)),
}
SCALES = {"e8m0": "torch.uint8", "e4m3": "torch.float8_e4m3fn"}
OBSERVERS: dict[type[Observer], tuple[str, str]] = {  # of weights, of activations
    Mse: ("memoryless_mse", "mse"),
    MovingAverage: ("", "minmax"),
    MinMax: ("memoryless_minmax", "static_minmax"),
}
MODIFIERS = {"rtn": "QuantizationModifier", "gptq": "GPTQModifier"}
OPTIONS: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {  # their word: ours, and how a recipe's is read
    "gptq": {
        "actorder": ("actorder", lambda order: "weight" if order == "static" else order),
        "dampening_frac": ("damp", float),
        "block_size": ("block_size", int),
    }
}
TREATING: dict[type[Transform], str] = {
    Rotate: "SpinQuantModifier", Smooth: "SmoothQuantModifier", Awq: "AWQModifier", Quip: "QuIPModifier",
}  # fmt: skip
AWQ_GRID = 1 + RATIOS  # their n_grid
ROTATIONS = {"hadamard": "hadamard", "random": "random-matrix"}  # ours: their transform_type
TURNS = {"hadamard": "hadamard", "signed": "random-hadamard"}
FOLDED, INNER = ["R1", "R2"], "R4"
PACKED, UNPACKED = "pack-quantized", "int-quantized"
LAYOUTS = {
    PACKED: Layout(in_words, in_words, shape_bits=2 * 64),  # weight_shape, two int64
    UNPACKED: Layout(in_bytes, in_bytes),
    "float-quantized": Layout(in_bytes, in_bytes),
    "naive-quantized": Layout(in_bytes, in_bytes),
    "mxfp8-quantized": Layout(in_bytes, in_bytes),
    "mxfp6-pack-quantized": Layout(close, close),  # four codes in three bytes
    "mxfp4-pack-quantized": Layout(sharing_bytes, sharing_bytes),
    "nvfp4-pack-quantized": Layout(sharing_bytes, sharing_bytes),
}
READ_AS_BFLOAT16 = frozenset(name for name in LAYOUTS if name.startswith(("mx", "nv")))  # whatever the model's type


def whole(fmt: Format) -> str:
    """The format's name, or of a narrow one the name of that which has one code more."""
    return fmt.name.removesuffix("_narrow")


def strategy(spec: QuantSpec) -> str:
    return UNDER_GLOBAL if spec.scales.has_global else STRATEGIES[type(spec.granularity)]


def why_no_words(spec: QuantSpec) -> str | None:
    """Why they have no word for a spec's numbers, as half a sentence about it; None where they have."""
    if whole(spec.fmt) not in FORMATS:
        return f"no {spec.fmt.name}; use int2 to int8, fp8_e4m3, or fp4_e2m1 and fp6_e2m3 with coded scales"
    if not spec.scales.is_coded:
        found = [f"{grain}/{name}" for name, (grain, formats) in CODED.items() if spec.fmt.name in formats]
        if spec.fmt.is_float and spec.fmt.bits < 8:
            return (
                f"{spec.fmt.name} with coded scales alone; write {spec.fmt.name}/{f' or {spec.fmt.name}/'.join(found)}"
            )
        return None
    grain, formats = CODED[spec.scales.name]
    if spec.granularity != grain or spec.fmt.name not in formats:
        return (
            f"{spec.scales} scales for {grain} of {', '.join(formats)} alone; write {formats[0]}/{grain}/{spec.scales}"
        )
    return None


def arguments(spec: QuantSpec) -> Entry:
    """The fields of compressed-tensors' QuantizationArgs; a narrow format's codes are codes of the whole one."""
    kind, bits = FORMATS[whole(spec.fmt)]
    found: Entry = {
        "num_bits": bits,
        "type": kind,
        "symmetric": spec.symmetric,
        "strategy": strategy(spec),
        "dynamic": LOCAL if spec.local else spec.dynamic,
    }
    if spec.scales.is_coded:
        found["scale_dtype"] = SCALES[spec.scales.name]
    if isinstance(spec.granularity, PerGroup):
        found["group_size"] = spec.granularity.group_size
    if isinstance(spec.granularity, PerBlock):
        found["block_structure"] = [spec.granularity.rows, spec.granularity.cols]
    return found


def observed(spec: QuantSpec, weights: bool) -> Entry:
    """`arguments`, with the observer of a range that is taken beforehand."""
    found = arguments(spec)
    if spec.static:
        found["observer"] = OBSERVERS[type(spec.observer)][0 if weights else 1]
    if isinstance(spec.observer, MovingAverage):
        found["observer_kwargs"] = {"averaging_constant": spec.observer.momentum}
    return found


def spec_of(entry: Entry | None, weights: bool) -> QuantSpec | None:
    """The inverse of `observed`. Raises: ValueError for what this lab has not."""
    if entry is None:
        return None
    written = (entry.get("type", "int"), int(entry.get("num_bits", 8)))
    name = next((name for name, words in FORMATS.items() if words == written), None)
    if name is None:
        raise ValueError(f"the recipe's {written[0]} codes of {written[1]} bits are none that this reader knows; use 8")
    dynamic, scales = bool(entry.get("dynamic", False)), _scales(entry)
    if (entry.get("dynamic") == LOCAL) != (dynamic and scales.has_global):
        raise ValueError(
            f"the recipe's dynamic: {entry.get('dynamic')} does not go with strategy {entry.get('strategy')}; {LOCAL} "
            f"and {UNDER_GLOBAL} stand together"
        )
    return QuantSpec(
        fmt=format_named(name),
        granularity=_granularity(entry),
        scales=scales,
        symmetric=bool(entry.get("symmetric", True)),
        dynamic=dynamic,
        observer=MinMax() if dynamic and not scales.has_global else _observer(entry, weights),
    )


def _scales(entry: Entry) -> ScaleFormat:
    """How a recipe's scales are stored: e8m0 is written as bytes, e4m3 under a global scale as its strategy."""
    stored = str(entry.get("scale_dtype") or "").removeprefix("torch.")
    if entry.get("strategy") == UNDER_GLOBAL:
        if stored not in ("", "float8_e4m3fn"):
            raise ValueError(f"the recipe's scales of strategy {UNDER_GLOBAL} are {stored}; this lab has float8_e4m3fn")
        return E4M3
    if stored == "uint8":
        return E8M0
    if stored not in ("", "bfloat16", "float16", "float32"):
        raise ValueError(f"the recipe's scales are {stored} of strategy {entry.get('strategy')}; this lab has not that")
    return FLOAT


def _granularity(entry: Entry) -> Granularity:
    group_size, word = entry.get("group_size"), entry.get("strategy")
    if word is None:
        word = "tensor" if group_size is None else "channel" if group_size == -1 else "group"
    if word in (STRATEGIES[PerGroup], UNDER_GLOBAL):
        return PerGroup(int(group_size or 0))
    if word == STRATEGIES[PerBlock]:
        if "block_structure" not in entry:
            raise ValueError("the recipe's strategy block needs its block_structure; add one such as [128, 128]")
        return PerBlock(*entry["block_structure"])
    for grain in (PerTensor(), PerChannel(), PerToken(), PerHead()):
        if word == STRATEGIES[type(grain)]:
            return grain
    raise ValueError(f"the recipe's strategy {word!r} is none of {', '.join(STRATEGIES.values())}")


def _observer(entry: Entry, weights: bool) -> Observer:
    word = entry.get("observer") or ("memoryless_minmax" if weights else "minmax")
    if word == "minmax" and not weights:
        return MovingAverage(float((entry.get("observer_kwargs") or {}).get("averaging_constant", 0.01)))
    if word in OBSERVERS[Mse]:
        return Mse()
    if word in (*OBSERVERS[MinMax], "minmax"):
        return MinMax()
    raise ValueError(f"the recipe's observer {word!r} is none of this lab's; use a minmax or mse one")


def options_of(method: Method) -> Entry:
    """The method's options in their words."""
    return {word: getattr(method, ours) for word, (ours, _) in OPTIONS.get(method.name, {}).items()}


def modifier(method: Method, body: Entry) -> Entry:
    """llm-compressor's modifier that quantizes by the method what `body` says."""
    return {MODIFIERS[method.name]: body | options_of(method)}


def method_of(kind: str, body: Entry) -> Method:
    """The method of a modifier. Raises: ValueError for one that is none of this lab's."""
    name = next((name for name, word in MODIFIERS.items() if word == kind), None)
    if name is None:
        kinds = ", ".join([*MODIFIERS.values(), *TREATING.values()])
        raise ValueError(f"the recipe's {kind} is no method of this lab; it knows {kinds}")
    words = {"actorder": "static"} | body  # its default
    known = OPTIONS.get(name, {})
    return METHODS[name](**{ours: read(words[word]) for word, (ours, read) in known.items() if word in words})


def why_not_treating(transform: Transform) -> str | None:
    """What of a transform llm-compressor has not, in a sentence; None where it has all."""
    if isinstance(transform, Smooth) and transform.through:
        plain = Smooth(transform.alpha)
        return f"its SmoothQuantModifier folds into norms alone unless it is told a model's layers; write {plain}"
    if type(transform) not in TREATING:
        return f"it has no {transform.name}; use {Quip.usage.split(' ')[0]}"
    return None


def treating(transform: Transform) -> Entry:
    """llm-compressor's modifier that does the transform, before those that quantize."""
    body: Entry = {}
    if isinstance(transform, Smooth):
        body = {"smoothing_strength": transform.alpha}
    if isinstance(transform, Awq):
        body = {"n_grid": AWQ_GRID, "duo_scaling": True}
    if isinstance(transform, Rotate):
        rotations = [*FOLDED, INNER] if transform.inner else FOLDED
        body = {"rotations": list(rotations), "transform_type": ROTATIONS[transform.kind]}
    if isinstance(transform, Quip):
        body = {"rotations": ["v"], "transform_type": TURNS[transform.kind]}
        if transform.block is not None:
            body["transform_block_size"] = transform.block
    return {TREATING[type(transform)]: body}


def transform_of(kind: str, body: Entry) -> Transform | None:
    """The transform of a modifier; None of one that does nothing. Raises: ValueError."""
    if kind == TREATING[Rotate]:
        rotations = sorted(one.upper() for one in body.get("rotations", FOLDED))
        if rotations not in (FOLDED, [*FOLDED, INNER]):
            raise ValueError(
                f"the recipe's {kind} has the rotations {', '.join(rotations)}; this lab has R1 with R2, and R4 beside "
                "them"
            )
        return Rotate(_kind_of(kind, body.get("transform_type", "hadamard"), ROTATIONS), INNER in rotations)
    if kind == TREATING[Quip]:
        if (sides := [one.lower() for one in body.get("rotations", ["v"])]) != ["v"]:
            raise ValueError(
                f"the recipe's {kind} has the rotations {', '.join(sides)}; this lab turns inputs alone, as its own "
                "advice is: write [v]"
            )
        for field, usual in (("targets", "Linear"), ("ignore", "lm_head")):
            if (said := body.get(field, [usual])) != [usual]:
                raise ValueError(
                    f"the recipe's {kind} has {field} {', '.join(said)}; here every Linear that is quantized is "
                    f"turned: leave {field} out"
                )
        return Quip(
            _kind_of(kind, body.get("transform_type", "random-hadamard"), TURNS), body.get("transform_block_size")
        )
    if kind == TREATING[Awq]:
        if (body.get("n_grid", AWQ_GRID), body.get("duo_scaling", True)) != (AWQ_GRID, True):
            raise ValueError(f"the recipe's {kind} has another grid than this lab's; leave n_grid and duo_scaling out")
        return Awq()
    if kind == TREATING[Smooth]:
        if (other := body.get("algorithm", "smoothquant")) != "smoothquant":
            raise ValueError(
                f"the recipe's {kind} has the algorithm {other!r}, which this lab has not; use smoothquant"
            )
        strength = float(body.get("smoothing_strength", 0.5))
        return Smooth(strength) if strength else None
    raise ValueError(f"the recipe's {kind} is no transform of this lab; it knows {', '.join(TREATING.values())}")


def _kind_of(modifier: str, said: str, words: dict[str, str]) -> str:
    """Our word for their transform_type. Raises: ValueError for one that this lab has not."""
    ours = next((ours for ours, theirs in words.items() if theirs == said), None)
    if ours is None:
        raise ValueError(
            f"the recipe's {modifier} has {said}, which this lab has not; use {' or '.join(words.values())}"
        )
    return ours
