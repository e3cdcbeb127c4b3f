"""Calibration: let the model read some text and note what enters each Linear, without keeping the activations.

One forward pre-hook a layer takes the batch, adds to float32 sums of a fixed size and lets it go, so memory does not
grow with the number of tokens. Layers that read the same tensor (q, k, v; gate, up) share one LayerStats.

    Hessian  H = X^T X  (K, K), the sum over tokens: what GPTQ weighs the columns' errors with
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantcore.model.experts import Experts, every_token, taken_apart
from quantcore.model.inputs import SharedInputs, watch_inputs
from quantcore.model.linears import batches, linears
from quantcore.numbers.observers import RangeRecorder
from quantcore.numbers.spec import MovingAverage
from quantcore.pipeline.gram import gram_of
from quantcore.scheme.scheme import Scheme

Progress = Callable[[float, str], None]


def part_of(progress: Progress | None, place: int, count: int, label: str = "") -> Progress:
    """What the part at `place` of `count` equal ones tells of its share, for the whole; `label` before its words."""

    def tell(share: float, doing: str) -> None:
        if progress:
            progress((place + share) / count, f"{label}: {doing}" if label else doing)

    return tell


@dataclass
class LayerStats:
    """What entered one layer, in float32.

    tokens            how many were seen
    hessian           (K, K), X^T X; None if it was not asked for
    channel_absmax    (K,), the largest |x| of each input channel
    position_absmax   (T,), the largest |x| at each position of a window: token maxima, bounded by the window
    ranges            min, max, moving averages and a histogram of all values
    """

    tokens: int = 0
    hessian: Tensor | None = None
    channel_absmax: Tensor | None = None
    position_absmax: Tensor | None = None
    ranges: RangeRecorder = field(default_factory=RangeRecorder)

    def update(self, x: Tensor, hessian: bool) -> None:
        """Take in one batch of inputs, shape (..., T, K). Each window of T tokens is one step of the ranges."""
        given, x = x.detach(), x.detach().float()
        rows = x.reshape(-1, x.shape[-1])
        magnitude = rows.abs()
        self.tokens += len(rows)
        for window in x.reshape(-1, *x.shape[-2:]):
            self.ranges.update(window)
        self.channel_absmax = _running_max(self.channel_absmax, magnitude.amax(0))
        positions = magnitude.amax(-1).reshape(-1, x.shape[-2] if x.ndim > 1 else 1).amax(0)
        self.position_absmax = _running_max(self.position_absmax, positions)
        if hessian:
            gram = gram_of(given)
            self.hessian = gram if self.hessian is None else self.hessian.add_(gram)


def calibrate(
    model: nn.Module,
    tokens: Tensor,
    layers: Iterable[str] | None = None,
    hessian: bool = True,
    momenta: tuple[float, ...] = (MovingAverage().momentum,),
    progress: Progress | None = None,
    every: bool = False,
) -> dict[str, LayerStats]:
    """Run the model over `tokens` (windows, T), as far as the last of the layers, and return each layer's LayerStats.

    layers      names of the Linears to watch (None: all)
    hessian     also sum X^T X: K^2 floats a layer
    momenta     of the moving averages to record
    every       whether each expert sees every token, not only those that the router gives it
    A layer that no token reaches (an expert) is not in the answer.
    Raises: ValueError for activations with NaN or Inf, and for names that do not exist. Source of the Hessian: Frantar
    et al. 2022, arXiv:2210.17323, section 3.2 (without its factor 2, which changes no code)."""
    model = taken_apart(model)
    names = list(linears(model) if layers is None else layers)
    shared, stats = SharedInputs(), dict[str, LayerStats]()
    device = next(model.parameters()).device
    done = 0
    seen: set[str] = set()

    def see(name: str, x: Tensor) -> None:
        if shared.is_first(name, x):
            stats.setdefault(name, LayerStats(ranges=RangeRecorder(momenta))).update(x, hessian)
        seen.add(name)
        if len(seen) == len(names):
            raise _LayerReached

    with watch_inputs(model, names, see), every_token(model, every), torch.inference_mode():
        for batch in batches(tokens, device):
            seen.clear()
            with suppress(_LayerReached):
                model(batch, use_cache=False)
            done += len(batch)
            if progress:
                progress(done / len(tokens), f"calibrated on {done * tokens.shape[1]} tokens")
    return {name: stats[first] for name, first in shared.first.items()}


def outlier_ratio(stats: LayerStats) -> float:
    """Largest over median of the input channels' maxima: 1 where all are alike, hundreds where one channel shouts."""
    if stats.channel_absmax is None:
        raise ValueError("no batch was observed, so there are no channel maxima; calibrate over some text first")
    return over_median(stats.channel_absmax)


def over_median(maxima: Tensor) -> float:
    """Largest over median of magnitudes; infinite where more than half of them are 0, 1 where all are."""
    median, largest = float(maxima.median()), float(maxima.max())
    return largest / median if median else math.inf if largest else 1.0


def momenta_of(scheme: Scheme) -> tuple[float, ...]:
    """The moving averages that calibrating for `scheme` must record."""
    observer = scheme.activations.observer if scheme.activations else None
    return (observer.momentum,) if isinstance(observer, MovingAverage) else (MovingAverage().momentum,)


def layer_inputs(model: nn.Module, tokens: Tensor, layer: str) -> Tensor:
    """The inputs of one layer over the text, (windows, T, K), float32 on the layer's device: kept, so for short texts.

    An expert's are (1, n, K): those of the n tokens that the router gave it, which `tokens_of_layer` names.
    Raises: NotReached where no token reaches the layer."""
    found = torch.cat([x for x, _ in _seen(model, tokens, layer)])
    if found.ndim == 2:
        return found.view(*tokens.shape, -1) if len(found) == tokens.numel() else found[None]
    return found


def tokens_of_layer(model: nn.Module, tokens: Tensor, layer: str) -> Tensor:
    """Which tokens of the text `layer_inputs` has a row for, places in the flattened text."""
    return torch.cat([rows for _, rows in _seen(model, tokens, layer)])


def _seen(model: nn.Module, tokens: Tensor, layer: str) -> list[tuple[Tensor, Tensor]]:
    """Batch by batch what enters a layer, and the tokens that it belongs to."""
    model, kept, before = taken_apart(model), list[tuple[Tensor, Tensor]](), 0
    holders = [one for name, one in model.named_modules() if isinstance(one, Experts) and layer.startswith(f"{name}.")]

    def keep(_: str, x: Tensor) -> None:
        given = holders[0].given[threading.get_ident()] if holders else torch.arange(x.numel() // x.shape[-1])
        kept.append((x.float(), before + given.cpu()))
        raise _LayerReached

    device = next(model.parameters()).device
    with watch_inputs(model, [layer], keep), torch.inference_mode():
        for batch in batches(tokens, device):
            with suppress(_LayerReached):
                model(batch, use_cache=False)
            before += batch.numel()
    if not kept:
        raise NotReached(layer, tokens.numel())
    return kept


class NotReached(ValueError):
    """No token of a text came to a layer: the router gave its expert none."""

    def __init__(self, layer: str, tokens: int, learning: bool = False) -> None:
        """tokens: how many were read; learning: to calibrate the layer, for which others may do."""
        way_out = "calibrate on more" if learning else "read more of the text, another text"
        also = ", or add experts=all to the scheme" if learning else ""
        super().__init__(
            f"no token reached {layer!r}, of {tokens:,} that were read; {way_out}, or choose another expert{also}"
        )


class _LayerReached(Exception):
    """Thrown out of a forward pass whose rest nobody needs."""


def _running_max(old: Tensor | None, new: Tensor) -> Tensor:
    if old is None:
        return new
    if len(old) < len(new):
        old, new = new, old
    return torch.maximum(old, nn.functional.pad(new, (0, len(old) - len(new))))
