"""What reordering costs at run time: the same layer with its groups side by side, and with groups that are scattered.

`actorder=weight` keeps every group's columns side by side: a scale serves a run of columns. `actorder=group` forms the
groups along the new order: each column looks its group up in g_idx before its code means anything. Both layers are
multiplied by the same path, in turns, round by round, on the machine at hand.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul.layers import QuantLinear
from quantcore.methods.gptq import gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.model.machine import device_name
from quantcore.numbers.spec import QuantSpec
from quantcore.studies.dynamic_cost import timed_rounds

TOKEN_COUNTS = (1, 64)
SECONDS = 0.25
UNSTEADY = 2.0


@dataclass(frozen=True)
class Spread:
    """Of a number of times: the median and the quartiles, milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class OrderCost:
    """One number of tokens. `ratio` is the median of group over weight, taken round by round, `ratio_lo..ratio_hi` its
    95% interval."""

    tokens: int
    rounds: int
    path: str
    weight: Spread
    group: Spread
    plain: Spread
    ratio: float
    ratio_lo: float
    ratio_hi: float

    @property
    def within_noise(self) -> bool:
        return self.ratio_lo <= 1 <= self.ratio_hi

    @property
    def unsteady(self) -> bool:
        """The machine did other work meanwhile: a quartile is UNSTEADY times the other. Then nothing is said."""
        return any(one.high_ms > UNSTEADY * one.low_ms for one in (self.weight, self.group))


@dataclass(frozen=True)
class OrderCosts:
    """`plain` in each row is the float product of the same shape; `device` in words; `g_idx_bytes` a layer carries."""

    rows: tuple[OrderCost, ...]
    shape: tuple[int, int]
    dtype: str
    device: str
    g_idx_bytes: int


def measure_order_cost(
    weight: Tensor, hessian: Tensor, spec: QuantSpec, x: Tensor, seconds: float = SECONDS
) -> OrderCosts:
    """Quantize `weight` (O, K) both ways and time both layers where it lies; x (N, K) is repeated or cut to each count.

    seconds     goal for each count. Raises: ValueError as `gptq_quantize`."""
    x = x.to(weight)
    codes = [gptq_quantize(weight, hessian, spec, Gptq(actorder)) for actorder in ("weight", "group")]
    layers = [QuantLinear(one, None) for one in codes]
    assert codes[1].g_idx is not None or codes[1].scale.shape[1] == 1
    return OrderCosts(
        rows=tuple(_cost(weight, layers, x, count, seconds) for count in TOKEN_COUNTS),
        shape=(weight.shape[0], weight.shape[1]),
        dtype=str(weight.dtype).removeprefix("torch."),
        device=device_name(weight.device),
        g_idx_bytes=0 if codes[1].g_idx is None else codes[1].g_idx.nbytes,
    )


def _cost(weight: Tensor, layers: Sequence[QuantLinear], x: Tensor, count: int, seconds: float) -> OrderCost:
    batch = x.repeat(-(-count // len(x)), 1)[:count].contiguous()
    by_weight, by_group = layers
    ways: list[Callable[[], object]] = [
        lambda: by_weight(batch),
        lambda: by_group(batch),
        lambda: F.linear(batch, weight),
    ]
    with torch.inference_mode():
        rounds = timed_rounds(ways, weight.device, seconds)
    ratio, lo, hi = median_interval([group / ordered for ordered, group, _ in rounds])
    ordered_ms, group_ms, plain_ms = (_spread(one) for one in zip(*rounds, strict=True))
    path = by_weight.path_for(batch).name
    return OrderCost(count, len(rounds), path, ordered_ms, group_ms, plain_ms, ratio, lo, hi)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95% interval: the order statistics k-th from either end, k = floor((n - 1.96 sqrt n) / 2), at
    least 1. Source: the binomial law of how many of n values lie below the median, by its normal approximation."""
    ordered, n = sorted(values), len(values)
    k = max(1, math.floor((n - 1.96 * math.sqrt(n)) / 2))
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def _spread(seconds: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Spread(1e3 * median, 1e3 * low, 1e3 * high)
