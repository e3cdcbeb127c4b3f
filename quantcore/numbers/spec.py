"""How one tensor becomes codes: format, granularity, symmetry, how scales are stored, which range is covered."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from quantcore.numbers.formats import Format
from quantcore.numbers.granularity import Granularity
from quantcore.numbers.scales import FLOAT, SCALES, ScaleFormat


@dataclass(frozen=True)
class MinMax:
    """The range is [min, max] of everything seen."""

    def __str__(self) -> str:
        return "minmax"


@dataclass(frozen=True)
class MovingAverage:
    """Exponential moving average of each window's min and max: r <- r + momentum * (new - r).

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.1; momentum 0.01 as in torch.ao and compressed-tensors."""

    momentum: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum:g} is outside (0, 1]; try ema0.01")

    def __str__(self) -> str:
        return f"ema{self.momentum:.10g}"


@dataclass(frozen=True)
class Percentile:
    """The range leaves (100 - percent)% of the values out at each end that has values beyond zero."""

    percent: float = 99.9

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise ValueError(f"percentile {self.percent:g} is outside (50, 100]; try p99.9")

    def __str__(self) -> str:
        return f"p{self.percent:.10g}"


@dataclass(frozen=True)
class Mse:
    """The min-max range shrunk by the factor that makes the mean squared error least."""

    def __str__(self) -> str:
        return "mse"


@dataclass(frozen=True)
class Search:
    """Of coded scales: that around max(|x|)'s whose round trip has the least squared error (`ScaleFormat.near`).

    weighted    (`search=h`) each column's error counts by its share of the inputs' power, diag(X^T X), which text tells
    Source: Cook et al. 2025, arXiv:2512.02010 (Four Over Six), which tries two of them; weights as llm-compressor's
    and llama.cpp's imatrix has them."""

    weighted: bool = False

    def __str__(self) -> str:
        return "search=h" if self.weighted else "search"


Observer = MinMax | MovingAverage | Percentile | Mse | Search


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor becomes codes. `dynamic` speaks of activations: True takes the range from the tensor at hand.
    `scales`: how a scale is stored. Where dynamic ones stand under a global scale, that one is recorded beforehand.
    `jitter` speaks of weights: not 0, it moves each scale within half a 16-bit grain (`jitter.moved`), of coded ones
    the global scale, so that the same scheme has other rounding luck."""

    fmt: Format
    granularity: Granularity
    symmetric: bool = True
    dynamic: bool = False
    observer: Observer = MinMax()
    jitter: int = 0
    scales: ScaleFormat = FLOAT

    def __post_init__(self) -> None:
        if self.jitter and self.dynamic:
            raise ValueError("a range taken at run time is not stored, so it has no grain to move in; leave out jitter")
        if self.fmt.is_float and not self.symmetric:
            raise ValueError(
                f"{self.fmt.name} has a sign and no zero point, so it cannot be asymmetric; leave out asym, or use int8"
            )
        if self.scales.is_coded and not self.symmetric:
            raise ValueError(f"{self.scales} codes scales of symmetric codes alone; leave out asym, or {self.scales}")
        if self.jitter and not self.scales.has_grain:
            raise ValueError(f"scales in {self.scales} have no 16-bit grain to move in; leave out jitter")
        if not self.symmetric and self.fmt.name.endswith("_narrow"):
            raise ValueError(
                f"{self.fmt.name} drops a code to be symmetric, so it cannot be asymmetric; "
                f"use {self.fmt.name.removesuffix('_narrow')}"
            )
        if isinstance(self.observer, Search) and not self.scales.is_coded:
            raise ValueError(f"search goes from code to code of scales, and {self.scales} has none; use mse, or e8m0")
        if isinstance(self.observer, Search) and self.dynamic:
            raise ValueError(
                "search takes too long for tensors at run time; it is for weights, so leave it out of a:..."
            )
        if self.local and isinstance(self.observer, Mse):
            raise ValueError("mse weighs one scale for all that was seen, and local ones are many; leave mse out")
        if isinstance(self.observer, MovingAverage) and not self.static:
            raise ValueError("a moving average needs earlier steps, so it cannot be dynamic; try static, or minmax")

    @property
    def weighs_columns(self) -> bool:
        """Of weights: whether ranges are chosen by how loud each column's inputs are, so that text must be read."""
        return isinstance(self.observer, Search) and self.observer.weighted

    @property
    def unweighted(self) -> QuantSpec:
        """The same where nothing is known of the inputs: all columns count alike."""
        return replace(self, observer=Search()) if self.weighs_columns else self

    @property
    def static(self) -> bool:
        """Of activations: whether a range is recorded beforehand and frozen."""
        return not self.dynamic or self.local

    @property
    def local(self) -> bool:
        """Of activations: whether what is frozen is the global scale alone, and the tiles have their own."""
        return self.dynamic and self.scales.has_global

    def __str__(self) -> str:
        words = [self.fmt.name, str(self.granularity)]
        words += [str(self.scales)] if self.scales.is_coded else []
        return "/".join(words + ([] if self.symmetric else ["asym"]))


def scales_named(text: str) -> ScaleFormat | None:
    """`e8m0`, `e4m3`: how scales are stored; None for any other word. Floats are not named."""
    found = SCALES.get(text)
    return found if found and found.is_coded else None


def parse_observer(text: str) -> Observer:
    """`minmax`, `ema0.01`, `p99.9`, `mse`, `search`, `search=h`: the inverse of `str`. Raises: ValueError."""
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    makers: dict[str, Callable[[str], Observer]] = {
        r"minmax": lambda _: MinMax(),
        r"mse": lambda _: Mse(),
        r"search": lambda _: Search(),
        r"(search)=h": lambda _: Search(True),
        r"ema": lambda _: MovingAverage(),
        rf"ema{number}": lambda value: MovingAverage(float(value)),
        rf"p{number}": lambda value: Percentile(float(value)),
    }
    for pattern, make in makers.items():
        if match := re.fullmatch(pattern, text):
            return make(match[match.re.groups])
    raise ValueError(
        f"cannot read {text!r}; after the granularity come e8m0, e4m3, asym, static, dynamic, local, minmax, ema, "
        "p99.9, mse, search or search=h"
    )
