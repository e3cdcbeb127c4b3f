"""A load, and what serving it takes: bytes of weights, cache and activations, time to the first token, tokens a second.

    load = Load.parse("8x8192,1024+256")         8 sequences of up to 8192 tokens; prompts of 1024, answers of 256
    memory_of(shape, plan, load).total          serve_time(shape, plan, load, GPUS["H200"]).tokens_s

step      products of `sequences` tokens + reading the cache at the middle of the answer + block_ms a decoder block
first     products of the prompt, AT_ONCE tokens at a time + attention's own operations + block_ms a block
tokens/s  sequences * answer / (sequences * first + answer * step): prompts are read one after another, answers together

The experts of a block are one product, as in vLLM's fused kernels: of those that a batch touches, each with its share
of the tokens. Several GPUs share every matrix and the cache evenly; what they tell each other is not counted.
Activations as in `studies.footprint`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from quantcore.advice.pace import fitted, product_ms
from quantcore.advice.shape import Matrix, ServedShape
from quantcore.numbers.bits import FLOAT_BITS, Size, layer_size
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.footprint import AT_ONCE, FLOAT_BYTES
from quantcore.studies.gpus import FLOAT, Machine

SHARE = 0.9  # of a GPU's memory that vLLM is told to take (--gpu-memory-utilization)


@dataclass(frozen=True)
class Load:
    """`sequences` at once, each of at most `context` tokens; a typical one asks `prompt` and is answered `answer`."""

    sequences: int = 8
    context: int = 8192
    prompt: int = 1024
    answer: int = 256

    def __str__(self) -> str:
        return f"{self.sequences}x{self.context},{self.prompt}+{self.answer}"

    @staticmethod
    def parse(text: str) -> Load:
        """The load that a text says. Raises: ValueError."""
        match = re.fullmatch(r"(\d{1,6})x(\d{1,9}),(\d{1,9})\+(\d{1,9})", text)
        if match is None:
            raise ValueError(
                f"cannot read the load {text[:60]!r}; write sequences x context, prompt + answer: {Load()}"
            )
        return Load(*map(int, match.groups()))

    def __post_init__(self) -> None:
        for name in ("context", "sequences", "prompt", "answer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is no load; give at least 1")
        if self.prompt + self.answer > self.context:
            raise ValueError(
                f"a prompt of {self.prompt} and an answer of {self.answer} tokens are more than a context of "
                f"{self.context}; take a longer context, or shorter texts"
            )


@dataclass(frozen=True)
class Memory:
    """Bytes on all GPUs together; `left` of what vLLM is told to take, negative where it does not fit."""

    weights: int
    cache: int
    activations: int
    budget: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations

    @property
    def left(self) -> int:
        return self.budget - self.total


@dataclass(frozen=True)
class ServeTime:
    """first_s: to the first token of one prompt alone; step_ms: a token of every sequence; tokens_s: of all."""

    first_s: float
    step_ms: float
    tokens_s: float


@dataclass(frozen=True)
class WaysOut:
    """What would fit where a load does not: so many GPUs of the kind, a power of two as heads are shared out, so many
    sequences at once of the same context, or so many tokens of context; None where not even one does."""

    gpus: int | None
    sequences: int | None
    context: int | None


def ways_out(memory: Memory, load: Load, gpus: int) -> WaysOut:
    """Of a load that does not fit. The cache grows with sequences and context, activations with the number of GPUs."""
    room, each = memory.budget - memory.weights - memory.activations, (memory.budget - memory.activations) / gpus
    share = max(0.0, room / memory.cache) if memory.cache else 0.0
    needed = 2 ** math.ceil(math.log2((memory.weights + memory.cache) / each)) if each > 0 else None
    context = int(load.context * share) // 128 * 128
    return WaysOut(
        needed,
        int(load.sequences * share) or None,
        context if context >= load.prompt + load.answer else None,
    )


def schemes_of(shape: ServedShape, plan: Plan) -> dict[Matrix, Scheme]:
    """The scheme of each kind of matrix; what stays float has the float one."""
    return {one: plan.scheme_for(one.name) or Scheme() for one in shape.matrices}


def weight_bytes(shape: ServedShape, plan: Plan) -> int:
    """Of all weights, codes without gaps. Raises: ValueError for a tile that does not divide a matrix."""
    size = Size(floats=FLOAT_BITS * shape.others)
    for one, scheme in schemes_of(shape, plan).items():
        coded = scheme.coded(one.shape)
        if coded is not None:
            try:
                each = layer_size(coded)
            except ValueError as error:
                raise ValueError(f"{one.name}: {error}") from error
            size += Size(*(one.count * getattr(each, part) for part in each.__dataclass_fields__))
        elif not (shape.tied and one.name == "lm_head"):
            size += Size(floats=FLOAT_BITS * one.numbers)
    return size.bytes


def memory_of(shape: ServedShape, weights: int, load: Load, machine: Machine, gpus: int = 1) -> Memory:
    """`weights` bytes served under a load on so many GPUs of a kind."""
    cache = load.sequences * (FLOAT_BYTES * shape.cache_numbers(load.context) + shape.state_bytes * shape.state_numbers)
    widths = sorted((one.shape[0] for one in shape.matrices if one.name != "lm_head"), reverse=True)[:2]
    tokens = min(AT_ONCE, load.context * load.sequences)
    activations = tokens * (2 * shape.hidden + sum(widths)) * FLOAT_BYTES + 4 * load.sequences * shape.vocabulary
    budget = int(SHARE * 1e9 * (machine.memory_gb or 0.0) * gpus)
    return Memory(weights, cache, activations * gpus, budget)


def serve_time(shape: ServedShape, plan: Plan, load: Load, machine: Machine, gpus: int = 1) -> ServeTime:
    """Predicted times. Raises: ValueError for a tile that does not divide a matrix."""
    schemes, beside = schemes_of(shape, plan), fitted().block_ms * shape.blocks
    floats = fitted().kinds["float"]
    per_ms = 1e6 * machine.bandwidth_gb_s / floats.memory
    middle = load.prompt + load.answer // 2
    kept = FLOAT_BYTES * shape.cache_numbers(middle) + 2 * shape.state_bytes * shape.state_numbers
    step = _products(schemes, shape.blocks, load.sequences, load.sequences, machine, gpus)
    step_ms = step + load.sequences * kept / per_ms / gpus + beside
    whole, rest = divmod(load.prompt, AT_ONCE)
    reads = [AT_ONCE] * whole + [rest] * bool(rest)
    first_ms = sum(_products(schemes, shape.blocks, tokens, 1, machine, gpus) + beside for tokens in reads)
    first_ms += _attention_ms(shape, load.prompt, machine) * floats.arithmetic / gpus
    every_ms = load.sequences * first_ms + load.answer * step_ms
    return ServeTime(first_ms / 1e3, step_ms, 1e3 * load.sequences * load.answer / every_ms)


def _products(
    schemes: Mapping[Matrix, Scheme], blocks: int, tokens: int, logits: int, machine: Machine, gpus: int
) -> float:
    """Milliseconds of all products of so many tokens; the head makes `logits` rows."""
    total = 0.0
    for one, scheme in schemes.items():
        count = logits if one.name == "lm_head" else tokens
        if one.used == 1.0:
            total += one.count * product_ms(scheme, one.shape, count, machine) / gpus
        else:
            touched = one.touched(count)
            share = max(1.0, count * one.used * one.count / touched)
            total += blocks * product_ms(scheme, one.shape, share, machine, touched / blocks) / gpus
    return total


def _attention_ms(shape: ServedShape, prompt: int, machine: Machine) -> float:
    """Both products of attention over a causal prompt: 2 * 2 * width * prompt^2 / 2 operations."""
    return 2.0 * shape.attended * prompt**2 / (1e9 * machine.rates[FLOAT])
