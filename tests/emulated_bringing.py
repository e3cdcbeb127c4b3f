"""The warps of Hopper's kernels that bring operands, as threads in Python: barriers count as the GPU's do, the copy
engine is at once, and whoever multiplies is as slow as can be. Triton's interpreter runs no Gluon."""

from collections.abc import Callable
from threading import Condition, Thread, current_thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.tile_order import place


class Barrier:
    """A phase ends when all have arrived and all bytes that they expect have come."""

    def __init__(self, count: int) -> None:
        self.count = self.missing = count
        self.bytes = self.phases = 0

    def arrive(self, count: int = 1) -> None:
        self.missing -= count
        assert self.missing >= 0, "more arrive than the barrier counts"
        self._end()

    def come(self, size: int) -> None:
        self.bytes -= size
        self._end()

    def _end(self) -> None:
        if self.missing == self.bytes == 0:
            self.missing, self.phases = self.count, self.phases + 1

    def is_over(self, parity: int) -> bool:
        return self.phases & 1 != parity


class Many(list[Any]):
    """Barriers or buffers; of a buffer, what was copied to it."""

    def index(self, place: int) -> tuple["Many", int]:  # type: ignore[override]
        return self, place

    @property
    def shape(self) -> tuple[int]:
        return (len(self),)


class Program:
    """Program `number` of so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, number: int, programs: int) -> None:
        self._changed = Condition()
        self._bringing: dict[Thread, Callable[[], bool]] = {}  # by thread, whether it may go on
        self.let = list[Thread]()  # who has let the next kernel begin
        fakes = {
            "gl": SimpleNamespace(
                cdiv=lambda a, b: -(-a // b), static_range=range, program_id=lambda _axis: number,
                num_programs=lambda _axis: programs,
            ),
            "mbarrier": SimpleNamespace(wait=self._wait, expect=self._expect),
            "tma": SimpleNamespace(async_copy_global_to_shared=self._copy),
            "after_last": lambda _overlap: None, "let_next": lambda _overlap: self.let.append(current_thread()),
            "piece_of": piece_of.fn, "place": place.fn,
        }  # fmt: skip
        for name, fake in fakes.items():
            monkeypatch.setattr(module, name, fake)

    def start(self, bring: Any, *args: Any) -> None:
        def run() -> None:
            try:
                bring.fn(*args)
            finally:
                with self._changed:
                    self._bringing[thread] = lambda: False
                    self._changed.notify_all()

        thread = Thread(target=run, daemon=True)
        self._bringing[thread] = lambda: True
        thread.start()

    def settle(self) -> None:
        """Let all that bring go on as far as they can."""
        with self._changed:
            assert self._changed.wait_for(lambda: not any(may() for may in self._bringing.values()), 20)

    def came(self, barrier: Barrier, parity: int) -> None:
        self.settle()
        assert barrier.is_over(parity), "what is waited for never comes"

    def arrive(self, barrier: Barrier) -> None:
        with self._changed:
            barrier.arrive()
            self._changed.notify_all()

    def _wait(self, at: tuple[Many, int], parity: int) -> None:
        barrier = at[0][at[1]]
        with self._changed:
            self._bringing[current_thread()] = lambda: barrier.is_over(parity)
            self._changed.notify_all()
            self._changed.wait_for(lambda: barrier.is_over(parity))
            self._bringing[current_thread()] = lambda: True

    def _expect(self, at: tuple[Many, int], size: int) -> None:
        with self._changed:
            at[0][at[1]].bytes += size
            at[0][at[1]].arrive()

    def _copy(self, size: int, where: list[int], at: tuple[Many, int], to: tuple[Many, int]) -> None:
        """A description is the bytes of its box here."""
        with self._changed:
            to[0][to[1]] = tuple(where)
            at[0][at[1]].come(size)
            self._changed.notify_all()
