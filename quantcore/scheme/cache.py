"""What a KV cache holds, as a part of a scheme's text: keys and values alike (kv:), or each its own (k:, v:).

    kv:fp8_e4m3/tensor/static        one scale a layer for its keys, one for its values, frozen beforehand
    kv:fp8_e4m3/head/static          one each for every head of keys or values
    kv:int8/token/dynamic            one for every token of every head, taken as the token comes
    kv:int4/group64/dynamic          one for every 64 numbers of such a row, along head_dim
    k:int8/token/dynamic,v:int4/group32/dynamic/asym
    k:int8/token/dynamic             the values stay float
    kv:int4/token/dynamic/r3         keys are coded in turned coordinates (R3), and turned back when they are read

A token is coded once, when it comes, and never again: its scale may depend on itself alone, or be known before. So
tensor and head are static, token and group dynamic, and the word may be left out. Keys are coded as caches store them:
behind their rotary position. Scales in e4m3 stand under a global one, which is frozen: kv:fp4_e2m1/group16/e4m3/local.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantcore.numbers.granularity import PerBlock, PerChannel, PerGroup, PerHead, PerTensor, PerToken
from quantcore.numbers.spec import QuantSpec, Search
from quantcore.scheme.spec_text import observer_suffix, parse_spec, when_of

CACHED = ("kv", "k", "v")
WHENS = ("static", "dynamic", "local")
TURNED = "/r3"


@dataclass(frozen=True)
class CacheSpec:
    """keys and values: how each becomes codes; None: it stays float, and at least one does not.

    turned   keys are coded behind a Hadamard matrix of each head (the largest power of two in its width), which spreads
             the channels that rotary positions leave loud: R3, of which the values' R2 is the sister. Attention reads
             them turned back, so that queries stay. Source: Liu et al. 2024, arXiv:2405.16406; Ashkboos et al. 2024,
             arXiv:2404.00456"""

    keys: QuantSpec | None = None
    values: QuantSpec | None = None
    turned: bool = False

    def __post_init__(self) -> None:
        if self.turned and self.keys is None:
            raise ValueError(f"{TURNED} turns keys before they are coded, and these stay float; write k:... or kv:...")
        if self.keys is None and self.values is None:
            raise ValueError("a cache whose keys and values stay float needs no word; leave kv: out")
        for spec in (self.keys, self.values):
            if spec is not None:
                _check(spec)

    def __str__(self) -> str:
        if self.keys == self.values and self.keys is not None:
            return f"kv:{_text(self.keys)}{TURNED * self.turned}"
        sides = (("k", self.keys, TURNED * self.turned), ("v", self.values, ""))
        return ",".join(f"{name}:{_text(spec)}{more}" for name, spec, more in sides if spec is not None)

    @property
    def sides(self) -> tuple[QuantSpec | None, QuantSpec | None]:
        """Keys and values."""
        return self.keys, self.values

    @property
    def needs_ranges(self) -> bool:
        """Whether a range, or a global scale, is frozen beforehand, so that it must be recorded."""
        return any(spec is not None and spec.static for spec in self.sides)


def parse_cache(parts: Mapping[str, str]) -> CacheSpec:
    """The cache that kv:, or k: and v:, say; `parts` by these words. Raises: ValueError with the way out."""
    if "kv" in parts and len(parts) > 1:
        other = next(word for word in parts if word != "kv")
        raise ValueError(f"kv: speaks of keys and values, and {other}: says one of them again; write k: and v:, or kv:")
    of_keys = "kv" if "kv" in parts else "k"
    turned = parts.get(of_keys, "").endswith(TURNED)
    plain = {word: text.removesuffix(TURNED) if word == of_keys else text for word, text in parts.items()}
    if "kv" in plain:
        both = _parse(plain["kv"])
        return CacheSpec(both, both, turned)
    keys, values = (_parse(plain[word]) if word in plain else None for word in ("k", "v"))
    return CacheSpec(keys, values, turned)


def _parse(text: str) -> QuantSpec:
    """A spec that may leave out when its range is known, since its granularity says that."""
    words = text.split("/")
    if len(words) < 2 or set(WHENS) & set(words):
        return parse_spec(text, activation=True)
    when = "static" if words[1] in ("tensor", "head") else "local" if "e4m3" in words[2:] else "dynamic"
    return parse_spec(f"{text}/{when}", activation=True)


def _text(spec: QuantSpec) -> str:
    return f"{spec}/{when_of(spec)}{observer_suffix(spec)}"


def _check(spec: QuantSpec) -> None:
    if spec.jitter:
        raise ValueError("jitter moves the scales of weights; leave it out of kv:...")
    if isinstance(spec.observer, Search):
        raise ValueError("search is for weights, which are coded once; leave it out of kv:...")
    if spec.scales.has_global and not spec.local:
        raise ValueError(
            f"a cache with scales in {spec.scales} has its global scale frozen and the others taken at run time; write "
            "group16/e4m3/local"
        )
    if isinstance(spec.granularity, PerChannel | PerBlock):
        raise ValueError(
            f"a cache cannot be quantized per {spec.granularity}: its scale would span tokens that have not come yet; "
            "try token, group64, or head/static"
        )
    if isinstance(spec.granularity, PerTensor | PerHead) and spec.dynamic:
        raise ValueError(
            f"a cache per {spec.granularity} cannot be dynamic: it grows, and its range is not known before its end; "
            f"try {spec.granularity}/static, or token/dynamic"
        )
    if isinstance(spec.granularity, PerToken | PerGroup) and not spec.dynamic:
        raise ValueError(
            f"a cache per {spec.granularity} cannot be static: tomorrow's tokens have no recorded scale; try "
            f"{spec.granularity}/dynamic, or head/static"
        )
