"""What a layer's name says: its block, its place in it, its expert, and which layers go together."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

SERVED_AS_ONE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers whose weights vLLM stacks, under one scheme for all of them: its `packed_modules_mapping`, November 2026."""


def short_names(layers: Iterable[str]) -> list[str]:
    """How a plan may name these layers in every block: by the last two parts of their names, or the last alone where
    the other is a number."""
    ends = (name.split(".")[-2:] for name in layers)
    return list(dict.fromkeys(".".join(part for part in end if not part.isdecimal()) for end in ends))


def place_of(name: str) -> tuple[int | None, str]:
    """A layer's place on a map: (block number or None, module within the block), `model.layers.3.mlp.up_proj` ->
    (3, `mlp.up_proj`)."""
    match = re.fullmatch(r"(?:.*?\.)?(\d+)\.(.+)", name)
    return (int(match[1]), match[2]) if match else (None, name)


def expert_of(name: str) -> tuple[str, int, str] | None:
    """Of a layer of an expert: where the experts are, its number, and which layer of the expert it is,
    `model.layers.3.mlp.experts.5.up_proj` -> (`model.layers.3.mlp.experts`, 5, `up_proj`); None for any other."""
    match = re.fullmatch(r"(.*\bexperts)\.(\d+)\.(\w+)", name)
    return (match[1], int(match[2]), match[3]) if match else None


def measured_together(names: Iterable[str]) -> dict[str, list[str]]:
    """The layers that are measured as one, by its name: all experts of a block, `model.layers.3.mlp.experts`, of which
    a large model has thousands of layers, and any other layer by itself."""
    found: dict[str, list[str]] = {}
    for name in names:
        expert = expert_of(name)
        found.setdefault(name if expert is None else expert[0], []).append(name)
    return found


def served_as_one(names: Iterable[str]) -> dict[str, list[str]]:
    """The layers that vLLM and its kin multiply as one, by the first of them: q, k and v of an attention, gate and up
    of an MLP (`SERVED_AS_ONE`); any other layer by itself."""
    parts = {part: together[0] for together in SERVED_AS_ONE for part in together}
    units: dict[tuple[str, str], list[str]] = {}
    for name in names:
        place, _, part = name.rpartition(".")
        units.setdefault((place, parts.get(part, part)), []).append(name)
    return {unit[0]: unit for unit in units.values()}


def block_of(layer: str, blocks: Sequence[str]) -> str | None:
    """The block that a layer is in, of `block_names`; None for one outside of them."""
    return next((block for block in blocks if layer.startswith(f"{block}.")), None)


def by_block(blocks: Collection[str], names: Iterable[str]) -> dict[str, list[str]]:
    """The layers of each block, and under "" those outside of the blocks, in the order of the names."""
    found: dict[str, list[str]] = {block: [] for block in [*blocks, ""]}
    for name in names:
        ends = [place for place, sign in enumerate(name) if sign == "."]
        block = next((name[:end] for end in ends if name[:end] in found), "")
        found[block].append(name)
    return found
