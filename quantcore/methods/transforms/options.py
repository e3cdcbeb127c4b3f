"""The transforms, each with its options, its traits and its text: what is done to a model before it is coded.

    rotate=hadamard   what a channel has alone is spread over all: hidden states and values in turned coordinates
    smooth=0.5        SmoothQuant: what is hard in the activations becomes hard in the weights, in part
    awq               weights that meet large inputs are multiplied before they are rounded, by scales that are tried
    quip=hadamard     what enters each Linear is turned as it comes, block by block
    wush=32           the same by matrices that the weight and its inputs decide

A transform changes no function: the float model's logits stay as they were. It speaks of the whole model, so a plan
says it once, with its default scheme. `scheme` reads and writes the texts, `pipeline.treated` does the folding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar


class Transform:
    """What every transform says of itself. `str` gives its text, `parse_transform` reads it.

    name          the first word of its text
    usage         its text, as a refusal lists it
    needs_text    whether it looks at what enters the layers, so that text must be read first
    scales        whether it divides channels by numbers of its choice: two that do would undo each other's choice
    every_input   whether it turns what enters every Linear, when the model runs"""

    name: ClassVar[str]
    usage: ClassVar[str]
    needs_text: ClassVar[bool] = False
    scales: ClassVar[bool] = False
    every_input: ClassVar[bool] = False

    @classmethod
    def parse(cls, text: str) -> Transform | None:
        """What a text says; None: nothing is done. Raises: ValueError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Smooth(Transform):
    """SmoothQuant: channel j of what enters a layer is divided by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), folded
    into what is before it, and the layer's column j multiplied by it.

    alpha      0 < alpha <= 1: how much of the activations' difficulty the weights take over; 0 in a text is no
               smoothing
    through    False: only norms are folded into, as in the paper; True (/all): also the Linears before o_proj and
               down_proj, where what is between is linear in each channel
    Source: Xiao et al. 2022, arXiv:2211.10438, eq. 4."""

    name = "smooth"
    usage = "smooth=0.5 (or smooth=0.5/all)"
    needs_text = True
    scales = True

    alpha: float = 0.5
    through: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"smooth={self.alpha:g} is outside 0 to 1; try smooth=0.5, or leave it out")

    def __str__(self) -> str:
        return f"smooth={self.alpha:.10g}{'/all' if self.through else ''}"

    @classmethod
    def parse(cls, text: str) -> Transform | None:
        found = re.fullmatch(r"smooth=(\d{1,9}(?:\.\d{1,9})?)(/all)?", text)
        if not found:
            raise ValueError(f"cannot read {text!r}; write {cls.usage}, a number from 0 to 1")
        return cls(float(found[1]), bool(found[2])) if float(found[1]) else None


@dataclass(frozen=True)
class Rotate(Transform):
    """The hidden states, and what each head carries from v to o, in turned coordinates (R1 and R2): an outlier of one
    channel is spread over all. Folded into the weights, so it costs nothing when the model runs.

    kind       hadamard, for widths that have such a matrix, or random, for any
    inner      True (/r4): what enters the other Linears, such as down_proj, is turned as well, by Hadamard's matrix of
               the largest power of two that divides its width; that is done when the model runs
    Sources: Ashkboos et al. 2024, arXiv:2404.00456; Liu et al. 2024, arXiv:2405.16406, without its training."""

    name = "rotate"
    usage = "rotate=hadamard (or rotate=random, rotate=hadamard/r4)"

    kind: str = "hadamard"
    inner: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ROTATIONS:
            raise ValueError(f"rotate={self.kind} is none of {', '.join(ROTATIONS)}; try rotate=hadamard")
        if self.inner and self.kind != "hadamard":
            raise ValueError(
                f"/r4 turns by Hadamard's matrices alone, and this is {self.kind}; write rotate=hadamard/r4"
            )

    def __str__(self) -> str:
        return f"rotate={self.kind}{'/r4' if self.inner else ''}"

    @classmethod
    def parse(cls, text: str) -> Transform | None:
        found = re.fullmatch(r"rotate=([^/]*)(/r4)?", text)
        if not found:
            raise ValueError(f"cannot read {text!r}; write {cls.usage}")
        return None if found[1] == "none" else cls(found[1], bool(found[2]))


@dataclass(frozen=True)
class Awq(Transform):
    """AWQ: each channel's scale by a grid search on the output error of what reads it, folded into what is before it: a
    norm, v_proj before o_proj, up_proj before down_proj. The codes are then placed by any method.

    Source: Lin et al. 2023, arXiv:2306.00978."""

    name = "awq"
    usage = "awq"
    needs_text = True
    scales = True

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: str) -> Transform | None:
        if text != cls.name:
            raise ValueError(f"cannot read {text!r}; write awq, which has no options")
        return cls()


@dataclass(frozen=True)
class Quip(Transform):
    """What enters each Linear that is quantized is turned as it comes, by blocks of channels, and the weight's columns
    alike: QuIP's rotation V. It is done when the model runs, once for each input.

    kind     hadamard, or signed: with random signs before it, the same for every layer
    block    channels that are turned together, a power of two; None: the largest that divides the layer's width
    Sources: Tseng et al. 2024, arXiv:2402.04396 (QuIP#); Chee et al. 2023, arXiv:2307.13304; outputs stay."""

    name = "quip"
    usage = "quip=hadamard (or quip=signed/64)"
    every_input = True

    kind: str = "hadamard"
    block: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in TURNS:
            raise ValueError(f"quip={self.kind} is none of {', '.join(TURNS)}; try quip=hadamard")
        if self.block is not None:
            require_power_of_two(self.block)

    def __str__(self) -> str:
        return f"quip={self.kind}" + ("" if self.block is None else f"/{self.block}")

    @classmethod
    def parse(cls, text: str) -> Transform | None:
        found = re.fullmatch(r"quip=([^/]*)(?:/(\d{1,6}))?", text)
        if not found:
            raise ValueError(f"cannot read {text!r}; write {cls.usage}")
        return None if found[1] == "none" else cls(found[1], None if found[2] is None else int(found[2]))


@dataclass(frozen=True)
class Wush(Transform):
    """What enters each Linear that is quantized is multiplied as it comes, by a matrix for each block of channels that
    makes the block's second moments in weight and inputs equal and spreads them (`turn.wush_turn`). Its matrices are
    block numbers for each channel, and done when the model runs.

    block    channels that go together, a power of two, such as the group of the scales
    Source: Chen et al. 2025, arXiv:2512.00956."""

    name = "wush"
    usage = "wush=32"
    needs_text = True
    scales = True
    every_input = True

    block: int = 32

    def __post_init__(self) -> None:
        require_power_of_two(self.block)

    def __str__(self) -> str:
        return f"wush={self.block}"

    @classmethod
    def parse(cls, text: str) -> Transform | None:
        found = re.fullmatch(r"wush=(\d{1,6})", text)
        if not found:
            raise ValueError(f"cannot read {text!r}; write {cls.usage}, a power of two")
        return cls(int(found[1]))


def require_power_of_two(block: int) -> None:
    """Raises: ValueError for another block of channels, or one of a single channel."""
    if block < 2 or block & (block - 1):
        raise ValueError(f"a block of {block} channels is no power of two; try 32, 64 or 128")


ROTATIONS = ("hadamard", "random")
TURNS = ("hadamard", "signed")
TRANSFORMS: dict[str, type[Transform]] = {kind.name: kind for kind in (Rotate, Smooth, Awq, Quip, Wush)}


def is_transform(text: str) -> bool:
    """Whether a part of a scheme's text begins as a transform's does."""
    return re.split("[=/]", text)[0] in TRANSFORMS


def parse_transform(text: str) -> Transform | None:
    """`smooth=0.5`: the inverse of `str`; None for one that does nothing (smooth=0, rotate=none).

    Raises: ValueError."""
    return TRANSFORMS[re.split("[=/]", text)[0]].parse(text)


def in_order(transforms: tuple[Transform, ...]) -> tuple[Transform, ...]:
    """The transforms in the order in which they are done, whatever the order in which they were said."""
    places = list(TRANSFORMS)
    return tuple(sorted(transforms, key=lambda one: places.index(one.name)))


def why_not_together(transforms: tuple[Transform, ...]) -> str | None:
    """Why these cannot be combined, in a sentence; None where they can."""
    scaling = [str(one) for one in transforms if one.scales]
    if len(scaling) > 1:
        return (
            f"{' and '.join(scaling)} both choose the scale of the same channels, and the second would undo the "
            "first's choice; leave one out"
        )
    turning = [str(one) for one in transforms if one.every_input or (isinstance(one, Rotate) and one.inner)]
    if len(turning) > 1:
        return f"{' and '.join(turning)} both turn what enters the same layers; leave one out"
    return None
