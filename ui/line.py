"""The line of jobs before one device, and the thread that runs them, one at a time.

Visitors take turns: of those who wait, the one served longest ago is next, and of a visitor's own jobs the first asked
for. Jobs whose visitors are all away are passed over while anybody else's waits. So a visitor who asks for many jobs,
or who leaves many behind, delays another by no more than the one that runs. One that rests still is passed over too.

The thread outlives every job, whatever a job raises. It runs at a lower priority than the pages (Linux; elsewhere at
the same), so that thirty visitors can move sliders meanwhile.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

NICE = 4  # of 19 steps; where other programs want the cores too, more would bring jobs to a stop


class Waiting(Protocol):
    """What a line needs to know of a job."""

    @property
    def visitors(self) -> frozenset[str]: ...

    @property
    def attended(self) -> bool: ...

    @property
    def rests_s(self) -> float: ...

    def run(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...


J = TypeVar("J", bound=Waiting)


class Line(Generic[J]):
    """Jobs that wait, in the order asked for; the one that runs; whose turn it was when."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running: J | None = None
        self._waiting: list[J] = []
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, job: J) -> None:
        """Add a job at the end."""
        with self._changed:
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=f"jobs on {self.name}", daemon=True)
                self._thread.start()
            self._changed.notify()

    def drop(self, job: J) -> bool:
        """Take a job out; False where it does not wait."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def ahead(self, job: J) -> int:
        """How many jobs run or wait before this one, as things stand; 0 for one that does not wait."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return order(self._waiting, self._turns).index(job) + (self.running is not None)

    def jobs(self) -> list[J]:
        """The one that runs, then the others as they will be served."""
        with self._changed:
            return [one for one in [self.running] if one is not None] + order(self._waiting, self._turns)

    def _serve(self) -> None:
        step_back()
        while True:
            job = self._next()
            try:
                job.run()
            except BaseException as error:
                logging.getLogger(__name__).error("the line of %s met a %s", self.name, type(error).__name__)
                with suppress(BaseException):
                    job.fail(error)
            del job  # or its result would stay until the next one comes

    def _next(self) -> J:
        with self._changed:
            self.running = None
            while not (ready := [job for job in self._waiting if job.rests_s <= 0]):
                if not self._waiting:
                    self._turns.clear()  # nobody waits: nobody has a grievance
                self._changed.wait(min((job.rests_s for job in self._waiting), default=None))
            job = self.running = order(ready, self._turns)[0]
            self._waiting.remove(job)
            self._turn += 1
            self._turns.update(dict.fromkeys(job.visitors, self._turn))
            return job


def order(waiting: Iterable[J], turns: dict[str, int]) -> list[J]:
    """The jobs as they will be served, given when each visitor was served last."""
    left, last, served = list(waiting), dict(turns), []
    turn = max(last.values(), default=0)
    attended = {id(job): job.attended for job in left}
    while left:

        def grievance(job: J) -> tuple[bool, int]:
            return not attended[id(job)], min((last.get(one, 0) for one in job.visitors), default=0)

        job = min(left, key=grievance)  # of equals the first: the one asked for earlier
        left.remove(job)
        served.append(job)
        turn += 1
        last.update(dict.fromkeys(job.visitors, turn))
    return served


def step_back(steps: int = NICE) -> None:
    """Lower this thread's priority, and with it that of the threads that its arithmetic starts."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), steps)
