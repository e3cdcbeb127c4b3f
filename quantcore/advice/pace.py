"""How long a product takes on a GPU: a formula whose constants were fitted to measured products, not a bare roofline.

    ms = fixed + encode * e + ((memory * m)^q + (arithmetic * (a + u * o))^q)^(1/q)

e, m      milliseconds that the encoding's and the product's bytes take at the datasheet's bandwidth
a         milliseconds that the operations take at the datasheet's dense rate
o         milliseconds that one token's operations take where codes are unpacked: on the int32 units for codes that are
          only stored (tensor cores do not unpack), else at the rate of a
encode, memory, arithmetic     how many times as long it takes in truth, memory at least once; u: how much work of that
                               kind comes on top, whatever the tokens
q         how sharply the larger of the two takes over

Six constants for each kind of scheme (assets/pace.json), fitted by `python -m benchmarks.fit_pace` to the products of
our kernels that `benchmarks.matmul` recorded on an H100 and an H200. The errors beside them are held out: of shapes,
numbers of tokens and of a GPU that the fit had not seen. On other GPUs the same efficiency is assumed, unmeasured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from quantcore.model.locate import ASSETS
from quantcore.numbers.granularity import PerGroup
from quantcore.scheme.scheme import Scheme
from quantcore.studies.gpus import Machine
from quantcore.studies.hardware import how_it_runs, work_of

FILE = ASSETS / "pace.json"
MEASURED_ON = ("H100 SXM", "H200")


@dataclass(frozen=True)
class Pace:
    """The constants of one kind; `fixed` in ms, `sharp` is q, `unpack` u."""

    fixed: float
    encode: float
    memory: float
    arithmetic: float
    sharp: float
    unpack: float

    def ms(self, encode_ms: Any, memory_ms: Any, arithmetic_ms: Any, unpack_ms: Any) -> Any:
        """Of numbers, or of arrays of them."""
        moved = (self.memory * memory_ms) ** self.sharp
        multiplied = (self.arithmetic * (arithmetic_ms + self.unpack * unpack_ms)) ** self.sharp
        return self.fixed + self.encode * encode_ms + (moved + multiplied) ** (1 / self.sharp)


@dataclass(frozen=True)
class HeldOut:
    """Errors (predicted / measured - 1) of what the fit had not seen: how many, the median of their sizes, and the
    tenth and ninetieth percentile."""

    count: int
    median: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Fitted:
    """kinds: by the scheme that stands for each. held_out: by shape, tokens, gpu and decode. block_ms: what a decoder
    block takes beside its products, fitted to whole decode steps. others: how other people's kernels did."""

    fitted: str
    kinds: Mapping[str, Pace]
    held_out: Mapping[str, HeldOut]
    block_ms: float
    decode: Mapping[str, Any]
    others: Mapping[str, Any]


@lru_cache
def fitted() -> Fitted:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return Fitted(
        content["fitted"],
        {kind: Pace(**constants) for kind, constants in content["kinds"].items()},
        {name: HeldOut(**errors) for name, errors in content["held_out"].items()},
        content["block_ms"],
        content["decode"],
        content["others"],
    )


def kind_of(scheme: Scheme, machine: Machine) -> str:
    """The measured kind that a scheme is nearest to on a machine; codes that are only stored are weights alone."""
    weights, inputs = scheme.weights, scheme.activations
    if weights is None:
        return "float"
    if inputs is None or how_it_runs(scheme, machine).weights_only:
        if weights.fmt.bits > 4:
            return "W8A16"
        return "W4A16" if weights.symmetric else "W4A16_ASYM"
    if not inputs.fmt.is_float:
        return "W8A8" if inputs.dynamic else "w:int8/channel,a:int8/tensor/static"
    if isinstance(inputs.granularity, PerGroup):
        return "FP8_BLOCK"
    return "FP8_DYNAMIC" if inputs.dynamic else "FP8"


def product_ms(scheme: Scheme, shape: tuple[int, int], tokens: float, machine: Machine, together: float = 1.0) -> float:
    """What N tokens through a layer (O, K) take, encoding counted.

    together   so many such products in one kernel, as a mixture's experts are: what is fixed counts once
    Raises: ValueError for a tile that does not divide the shape."""
    bounds = bounds_ms(str(scheme), shape, tokens, machine)
    return float(fitted().kinds[kind_of(scheme, machine)].ms(*(together * one for one in bounds)))


def bounds_ms(
    scheme: str, shape: tuple[int, int], tokens: float, machine: Machine
) -> tuple[float, float, float, float]:
    """Milliseconds of encoding, memory and arithmetic at the datasheet's figures, and those of one token's operations
    on the units that unpack; where their rate is not known, at the arithmetic's."""
    parsed = Scheme.parse(scheme)
    run = how_it_runs(parsed, machine)
    kept = Scheme(parsed.weights, None) if run.weights_only else parsed
    count = max(1, round(tokens))
    work = work_of(str(kept), shape, count)
    per_ms, rate = 1e6 * machine.bandwidth_gb_s, machine.rates[run.arithmetic]
    unpacks = machine.int32 if run.weights_only and parsed.weights is not None and machine.int32 else rate
    return (
        work.encode_bytes / per_ms,
        work.product_bytes / per_ms,
        work.flops / (1e9 * rate),
        work.flops / count / (1e9 * unpacks),
    )


def band(ms: float, machine: Machine) -> tuple[float, float]:
    """Between what and what the true time lies in eight of ten cases, by the held-out errors: of shapes on a GPU that
    was measured, the wider of shapes and GPUs, twice as wide, on another."""
    errors = fitted().held_out
    wide = 1.0 if machine.name in MEASURED_ON else 2.0
    lo = min(errors["shape"].lo, errors["gpu"].lo) * wide
    hi = max(errors["shape"].hi, errors["gpu"].hi) * wide
    return ms / (1 + hi), ms / max(0.2, 1 + lo)
