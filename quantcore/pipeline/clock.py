"""How long pieces of work took, on a GPU too, without waiting for it before the answer is wanted."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up seconds under names. On a GPU a piece is what lies between two events of the stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._under_way: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def piece(self, name: str) -> Iterator[None]:
        if self._device.type != "cuda":
            started = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started
            return
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._device)
        begun.record(stream)
        yield
        ended.record(stream)
        self._under_way.append((name, begun, ended))

    def seconds(self) -> dict[str, float]:
        """Seconds by name since the last call. Waits until the GPU is done with what was timed."""
        for name, begun, ended in self._under_way:
            ended.synchronize()
            self._seconds[name] += begun.elapsed_time(ended) / 1000
        found = dict(self._seconds)
        self._seconds.clear()
        self._under_way.clear()
        return found
