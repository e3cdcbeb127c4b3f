"""Milliseconds of calls on one device, each on its own copy of what it reads.

On a GPU times are medians over replays of a CUDA graph of several calls in a row, so that no weight is found in the L2
cache; and a plain time is one call launched from Python after the cache was flushed, between two events. Graphs to
compare are replayed in turn: a GPU at its power limit slows its clocks, and so slows them for all. On the CPU times are
medians of single calls.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from quantcore.numbers.kernels.launch import on_device, recording

Call = Callable[[], object]
MOST_COPIES = 64
GRAPH_MS = 2.0
REPLAYS = 15
CPU_SECONDS = 0.05


class Clock:
    """Milliseconds of calls on one device; holds what flushes the cache."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            self.cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
            self.flush = torch.empty(4 * self.cache_bytes, dtype=torch.uint8, device=device)

    def copies(self, nbytes: int) -> int:
        """How many copies of so many bytes it takes to leave the cache between two uses of one."""
        if not self.on_gpu:
            return 1
        return min(MOST_COPIES, max(2, -(-3 * self.cache_bytes // max(nbytes, 1))))

    def ms(self, calls: Sequence[Call]) -> float:
        """The median of one call, `calls` taken in turn: from graph replays on a GPU, one by one on the CPU."""
        return self.each_ms([calls])[0]

    def each_ms(self, works: Sequence[Sequence[Call]]) -> list[float]:
        """`ms` of several works, in turn."""
        if not self.on_gpu:
            return [self._cpu_ms(calls[0]) for calls in works]
        with on_device(self.device):
            graphs = [self._long_graph(calls) for calls in works]
            times = self._replays([graph for graph, _ in graphs], REPLAYS)
        return [ms / count for ms, (_, count) in zip(times, graphs, strict=True)]

    def plain_ms(self, call: Call) -> float:
        """The median of a call launched by itself, the cache flushed before it."""
        if not self.on_gpu:
            return self._cpu_ms(call)
        times = []
        with on_device(self.device):
            for _ in range(REPLAYS):
                begin, end = _events()
                self.flush.zero_()
                begin.record()
                call()
                end.record()
                times.append((begin, end))
            torch.cuda.synchronize(self.device)
        return _median_ms(times)

    def _long_graph(self, calls: Sequence[Call]) -> tuple[torch.cuda.CUDAGraph, int]:
        """A graph of about GRAPH_MS, and how many calls it holds."""
        for call in calls[:3]:
            call()
        torch.cuda.synchronize(self.device)
        one = self._replays([self._graph(calls, 1)], 3)[0] / len(calls)
        rounds = max(1, min(50, round(GRAPH_MS / max(one, 1e-3) / len(calls))))
        return self._graph(calls, rounds), rounds * len(calls)

    def _graph(self, calls: Sequence[Call], rounds: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with recording(graph, self.device):
            for _ in range(rounds):
                for call in calls:
                    call()
        return graph

    def _replays(self, graphs: Sequence[torch.cuda.CUDAGraph], count: int) -> list[float]:
        """The median of each."""
        times: list[list[tuple[Any, Any]]] = [[] for _ in graphs]
        for turn in range(count + 1):
            for graph, kept in zip(graphs, times, strict=True):
                begin, end = _events()
                begin.record()
                graph.replay()
                end.record()
                if turn:  # the first is to warm up
                    kept.append((begin, end))
        torch.cuda.synchronize(self.device)
        return [_median_ms(kept) for kept in times]

    def _cpu_ms(self, call: Call) -> float:
        call()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < CPU_SECONDS and len(times) < 50):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return 1e3 * statistics.median(times)


def _events() -> tuple[Any, Any]:
    event: Any = torch.cuda.Event
    return event(enable_timing=True), event(enable_timing=True)


def _median_ms(times: Sequence[tuple[Any, Any]]) -> float:
    return statistics.median(float(begin.elapsed_time(end)) for begin, end in times)


def calling(function: Callable[..., object], *args: object) -> Call:
    return lambda: function(*args)
