"""What a dynamic range costs in time: one layer's input made into codes with a frozen range, and with ranges found now.

Three ways to the codes, and the float product that the layer computes anyway, each timed alone:

    static      the codes, with a frozen scale
    dynamic     min and max first, of the whole tensor or of each token; then the codes
    product     x @ W^T in the dtype of the weight

The operations are this engine's, one after the other as torch runs them; a kernel that fuses them pays less, but it too
must read every token to its end before the first code is known. Extra time = dynamic - static.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.model.machine import device_name
from quantcore.numbers.granularity import PerToken
from quantcore.numbers.qtensor import qparams_for, quantize
from quantcore.numbers.spec import QuantSpec

TOKEN_COUNTS = (1, 8, 64, 256)
SECONDS_A_COUNT = 0.02
LEAST_ROUNDS, MOST_ROUNDS = 9, 51


@dataclass(frozen=True)
class CostRow:
    """Milliseconds for so many tokens at once, of the fastest of `rounds`: what disturbs a round only ever makes it
    slower. `unrest` is the worst median round over the fastest, of the four ways: near 1 on a quiet machine."""

    tokens: int
    rounds: int
    static_ms: float
    tensor_ms: float
    token_ms: float
    product_ms: float
    unrest: float

    @property
    def tensor_extra_ms(self) -> float:
        return self.tensor_ms - self.static_ms

    @property
    def token_extra_ms(self) -> float:
        return self.token_ms - self.static_ms


@dataclass(frozen=True)
class DynamicCost:
    """`device` in words; `shape` (O, K) and `dtype` of the weight that the product was timed with."""

    rows: tuple[CostRow, ...]
    device: str
    shape: tuple[int, int]
    dtype: str


def measure_cost(weight: Tensor, x: Tensor, spec: QuantSpec, seconds: float = SECONDS_A_COUNT) -> DynamicCost:
    """Time it on the device where `weight` (O, K) lies; x (N, K) is repeated or cut to each of TOKEN_COUNTS.

    spec        format and symmetry of the codes; its range is frozen from x for the static way
    seconds     goal for each token count; at least LEAST_ROUNDS rounds, at most MOST_ROUNDS
    Raises: ValueError for an empty x, NaN or Inf."""
    x = x.to(weight)
    return DynamicCost(
        rows=tuple(_cost(weight, x, count, spec, seconds) for count in TOKEN_COUNTS),
        device=device_name(weight.device),
        shape=(weight.shape[0], weight.shape[1]),
        dtype=str(weight.dtype).removeprefix("torch."),
    )


def _cost(weight: Tensor, x: Tensor, count: int, spec: QuantSpec, seconds: float) -> CostRow:
    batch = x.repeat(-(-count // len(x)), 1)[:count].contiguous()
    per_token = replace(spec, granularity=PerToken(), dynamic=True)
    frozen = qparams_for(x, spec)
    ways: list[Callable[[], object]] = [
        lambda: quantize(batch, spec, frozen),
        lambda: quantize(batch, spec),
        lambda: quantize(batch, per_token),
        lambda: F.linear(batch, weight),
    ]
    with torch.inference_mode():
        rounds = timed_rounds(ways, weight.device, seconds)
    times = list(zip(*rounds, strict=True))
    fastest = [min(one) for one in times]
    unrest = max(statistics.median(one) / best for one, best in zip(times, fastest, strict=True))
    static, tensor, token, product = (1e3 * best for best in fastest)
    return CostRow(count, len(rounds), static, tensor, token, product, unrest)


def timed_rounds(ways: list[Callable[[], object]], device: torch.device, seconds: float) -> list[list[float]]:
    """Seconds that each way took, round by round: every way in every round, so that a busy moment strikes all alike.

    One round first, not counted, in which kernels are chosen."""
    _round(ways, device)
    rounds: list[list[float]] = []
    began = time.perf_counter()
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.perf_counter() - began < seconds):
        rounds.append(_round(ways, device))
    return rounds


def _round(ways: list[Callable[[], object]], device: torch.device) -> list[float]:
    times = []
    for way in ways:
        way()  # not timed: it pays for what the way before it left behind, such as threads still spinning
        _wait(device)
        began = time.perf_counter()
        way()
        _wait(device)
        times.append(time.perf_counter() - began)
    return times


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
