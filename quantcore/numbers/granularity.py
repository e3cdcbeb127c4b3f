"""Granularity is one question: how big is the block of numbers that shares one scale?

Each class answers with `tile(shape)`, and `groups_columns` says whether the columns of a row fall into groups; nothing
downstream asks which granularity it is. Weights are [out, in], activations [..., tokens, in]; a group never crosses
rows.

    PerTensor      the whole tensor                     weight scale [1, 1]
    PerChannel     one output row                       weight scale [out, 1]
    PerToken       one token                            activation scale [..., tokens, 1]
    PerGroup(g)    g neighbours along in_features       weight scale [out, in/g]
    PerHead        one head of a KV cache               scale [..., heads, 1, 1]
    PerBlock(r,c)  an r x c rectangle of the weight     weight scale [out/r, in/c]

Source of the terms: compressed-tensors' QuantizationStrategy; groups: Frantar et al. 2022, arXiv:2210.17323, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PerTensor:
    groups_columns = False

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerChannel:
    groups_columns = False

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*(1,) * (len(shape) - 1), shape[-1])

    def __str__(self) -> str:
        return "channel"


@dataclass(frozen=True)
class PerToken:
    groups_columns = False

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*(1,) * (len(shape) - 1), shape[-1])

    def __str__(self) -> str:
        return "token"


@dataclass(frozen=True)
class PerHead:
    """Of tensors (..., heads, tokens, head_dim), as a KV cache holds them."""

    groups_columns = False

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        if len(shape) < 3:
            raise ValueError(f"a head needs heads, tokens and head_dim, got shape {tuple(shape)}; try tensor")
        return (*shape[:-3], 1, *shape[-2:])

    def __str__(self) -> str:
        return "head"


@dataclass(frozen=True)
class PerGroup:
    groups_columns = True

    group_size: int

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise ValueError(f"{self} is no group of weights; try group32, group64 or group128")

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        if shape[-1] % self.group_size:
            near = PerGroup(largest_divisor(shape[-1], self.group_size))
            raise ValueError(
                f"{self} does not divide in_features={shape[-1]}; try {near}, or channel (activations: token)"
            )
        return (*(1,) * (len(shape) - 1), self.group_size)

    def __str__(self) -> str:
        return f"group{self.group_size}"


@dataclass(frozen=True)
class PerBlock:
    groups_columns = True

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"a block of {self.rows} x {self.cols} holds no weight; try block128x128")

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        if len(shape) != 2:
            raise ValueError(f"a block needs a matrix, got shape {tuple(shape)}; try group{self.cols}")
        if shape[0] % self.rows or shape[1] % self.cols:
            near = PerBlock(largest_divisor(shape[0], self.rows), largest_divisor(shape[1], self.cols))
            raise ValueError(f"{self} does not divide {shape[0]} x {shape[1]} weights; try {near}, or channel")
        return (self.rows, self.cols)

    def __str__(self) -> str:
        return f"block{self.rows}x{self.cols}"


Granularity = PerTensor | PerChannel | PerToken | PerHead | PerGroup | PerBlock

_NAMED: dict[str, Granularity] = {
    "tensor": PerTensor(),
    "channel": PerChannel(),
    "token": PerToken(),
    "head": PerHead(),
}


def parse_granularity(text: str) -> Granularity:
    """`tensor`, `channel`, `token`, `head`, `group128`, `block128x128`: the inverse of `str`. Raises: ValueError."""
    if text in _NAMED:
        return _NAMED[text]
    if match := re.fullmatch(r"group(\d{1,9})", text):
        return PerGroup(int(match[1]))
    if match := re.fullmatch(r"block(\d{1,9})x(\d{1,9})", text):
        return PerBlock(int(match[1]), int(match[2]))
    raise ValueError(f"no granularity is called {text!r}; try tensor, channel, token, group128 or block128x128")


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
