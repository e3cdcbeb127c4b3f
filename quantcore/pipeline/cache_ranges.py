"""What a model hands to its KV cache on a text: ranges for static scales, or the tensors themselves.

    scales = calibrate_cache(held(model), kv, tokens)          QParams of keys and values, layer by layer
    seen = cache_tensors(held(model), tokens)                  {place: (keys, values)}, keys behind their rotation

The float model reads the text once, block by block, whether it is in memory or in its files. Each of several ranks
reads all of it, so that all freeze the same scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from quantcore.model.held import Held
from quantcore.numbers.affine import QParams, choose_qparams
from quantcore.numbers.granularity import PerHead
from quantcore.numbers.observers import RangeRecorder
from quantcore.numbers.spec import MovingAverage, QuantSpec
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.cache import Scales, require_cache, turned_head
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.scheme.cache import CacheSpec

See = Callable[[int, Tensor, Tensor], None]
"""Told of each layer's place, keys and values (B, heads, T, head_dim)."""


class _Watched(DynamicCache):  # type: ignore[misc]
    def __init__(self, config: Any, see: See) -> None:
        super().__init__(config=config)
        self._see = see

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self._see(layer_idx, key_states, value_states)
        found: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return found


def calibrate_cache(held: Held, kv: CacheSpec, tokens: Tensor | None, progress: Progress | None = None) -> Scales:
    """The frozen scales of every layer's keys and values on a text (windows, T): empty where nothing is frozen.

    Raises: ValueError for a model whose cache cannot hold codes, and for a range without text."""
    config: Any = held.skeleton.config
    require_cache(config, kv)
    if not kv.needs_ranges:
        return {}
    if tokens is None:
        raise ValueError(f"{kv} freezes ranges of the cache, so it needs calibration tokens; give calibration text")
    recorders: dict[int, tuple[_Side, _Side]] = {}

    def see(place: int, *came: Tensor) -> None:
        mine = recorders.setdefault(place, (_Side(kv.keys), _Side(kv.values)))
        keys, values = came
        for side, x in zip(mine, (turned_head(keys) if kv.turned else keys, values), strict=True):
            side.update(x)

    watch_cache(held, tokens, see, progress)
    return {
        place: (keys.frozen(held.device), values.frozen(held.device)) for place, (keys, values) in recorders.items()
    }


def cache_tensors(
    held: Held, tokens: Tensor, places: tuple[int, ...] | None = None
) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values of the layers at these places (None: all), each (windows, heads, T, head_dim), as they come."""
    require_cache(held.skeleton.config, None)
    found: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def see(place: int, keys: Tensor, values: Tensor) -> None:
        if places is None or place in places:
            mine = found.setdefault(place, ([], []))
            mine[0].append(keys)
            mine[1].append(values)

    watch_cache(held, tokens, see)
    return {place: (torch.cat(keys), torch.cat(values)) for place, (keys, values) in found.items()}


def watch_cache(held: Held, tokens: Tensor, see: See, progress: Progress | None = None) -> None:
    """Tell `see` of all that the float model hands to its cache while it reads (windows, T), block by block."""
    config: Any = held.skeleton.config

    def watched() -> Cache:
        return _Watched(config, see)

    walk, count = BlockWalk(held, tokens, cache=watched), max(1, len(held.blocks))
    for number, (name, block) in enumerate(held.in_turn()):
        walk.advance(block)
        part_of(progress, number, count)(1.0, f"{name}: its keys and values")


class _Side:
    """The ranges of one layer's keys, or values: one, or one a head; nothing where none is frozen."""

    def __init__(self, spec: QuantSpec | None) -> None:
        self._spec = spec if spec is not None and spec.static else None
        self._recorders: list[RangeRecorder] = []

    def update(self, x: Tensor) -> None:
        if self._spec is None:
            return
        parts = list(x.unbind(-3)) if isinstance(self._spec.granularity, PerHead) else [x]
        if not self._recorders:
            observer = self._spec.observer
            momenta = (observer.momentum,) if isinstance(observer, MovingAverage) else ()
            self._recorders = [RangeRecorder(momenta) for _ in parts]
        for recorder, part in zip(self._recorders, parts, strict=True):
            for window in part:  # a moving average steps once a window
                recorder.update(window)

    def frozen(self, device: torch.device) -> QParams | None:
        """Shapes: (1, 1), or (heads, 1, 1)."""
        if self._spec is None:
            return None
        ends = [one.range(self._spec) for one in self._recorders]
        lo, hi = (torch.cat(bounds) for bounds in zip(*ends, strict=True))
        if isinstance(self._spec.granularity, PerHead):
            lo, hi = lo[:, :, None], hi[:, :, None]
        return choose_qparams(lo, hi, self._spec).to(device)
