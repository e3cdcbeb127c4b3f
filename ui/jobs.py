"""Long work outside the pages' threads: one heavy job at a time per device, the others wait in line.

    job = jobs.submit("cpu", key, "4 schemes on 16,384 tokens", work, asker)      work(tell) -> result
    job.state, job.share, job.doing, job.left_s, job.ahead, job.so_far
    jobs.cancel(key, asker)

A job belongs to all who asked for it: the same key asked for by two browsers is one job, a reload or a second tab
neither ends nor doubles it, and a cancel ends it for those who go on waiting only when nobody does. `work` says how far
it is and what it has found so far through `tell` (`Teller`); when the job is ended it stops there, or at the next layer
that any model runs on the job's thread, whichever is first. Whatever work raises, BaseException too, ends the job with
a sentence, and the next one runs.

`Rules` say what a server of many allows: how many jobs a visitor may have waiting, and how long a job goes on for whom
nobody waits any more. This file knows no streamlit; `job_view` shows a job on a page.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from quantcore.numbers.kernels.launch import compiling
from ui.job_end import clear_memory, let_go, log, sentence
from ui.line import Line

Progress = Callable[[float, str], None]
KEPT = 32  # finished jobs that can still be asked for their result
CLOSE_S = 3.0
SHOW_EVERY_S = 1.0  # the page is drawn anew for what is shown, so not more often
TEND_S = 1.0
RELOAD_S = 60.0  # that a result on a visitor's own text waits for a tab that is loaded anew


class Cancelled(Exception):
    """Raised inside the work after the job was ended from outside."""


@dataclass(frozen=True)
class Asker:
    """Who asks: a browser, and one of its tabs."""

    visitor: str
    session: str


ALONE = Asker("", "")  # where there is one user, as in a test


@dataclass(frozen=True)
class Rules:
    """What a server allows.

    most_waiting   jobs of one visitor that may wait in line; None: any number
    leave_s        seconds that a job goes on after the last who asked for it has gone; None: to its end
    present        whether a tab is open still"""

    most_waiting: int | None = None
    leave_s: float | None = None
    present: Callable[[Asker], bool] = lambda _: True


class Teller:
    """How work speaks of itself: `tell(share, doing)` at least once a layer, `tell.show(so_far)` for what a page can
    draw already. Both raise Cancelled after the job was ended."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shown = -SHOW_EVERY_S

    def __call__(self, share: float, doing: str) -> None:
        self._job.go_on()
        self._job.share, self._job.doing = share, doing

    def show(self, so_far: Any) -> None:
        self._job.go_on()
        if (now := time.monotonic()) - self._shown >= SHOW_EVERY_S:
            self._job.so_far, self._shown = so_far, now


Work = Callable[[Teller], Any]
_here = threading.local()  # .job: what this thread works on


@cache
def _ask_at_every_layer() -> None:
    """From now on every module of every model asks, before it runs on a job's thread, whether that job goes on."""

    def ask(module: nn.Module, args: Any) -> None:
        job = getattr(_here, "job", None)
        if job is not None:
            job.go_on()

    register_module_forward_pre_hook(ask)


class Job:
    """One piece of work. state: waiting, running, done, failed, cancelled. share 0..1, doing: the layer at hand.

    so_far    what the work has shown of its result, None at first
    askers    who waits for it
    left_at   since when nobody does, in monotonic seconds
    private   made of a visitor's own text: the result goes with the visitor
    number    its own, of all jobs of this program"""

    _count = count(1)

    def __init__(
        self, device: str, key: str, title: str, work: Work, line: Line[Job], rules: Rules, private: bool
    ) -> None:
        self.device, self.key, self.title, self.private = device, key, title, private
        self.number = next(Job._count)
        self.state, self.share, self.doing = "waiting", 0.0, ""
        self.result: Any = None
        self.so_far: Any = None
        self.askers: set[Asker] = set()
        self.left_at: float | None = None
        self.problem: str | None = None
        self.asked = time.monotonic()
        self.started: float | None = None
        self.ended = threading.Event()
        self._work: Work | None = work
        self._line = line
        self._rules = rules
        self._stop = threading.Event()

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def age_s(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.asked

    @property
    def ahead(self) -> int:
        """How many jobs of the device run or wait before this one."""
        return self._line.ahead(self)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at the pace so far; None before anything is known."""
        if self.started is None or self.share < 0.02 or self.over:
            return None
        return (time.monotonic() - self.started) * (1 - self.share) / self.share

    @property
    def visitors(self) -> frozenset[str]:
        """The browsers that wait for it."""
        return frozenset(asker.visitor for asker in tuple(self.askers))

    @property
    def attended(self) -> bool:
        """Whether a tab that waits for it is open."""
        return any(map(self._rules.present, tuple(self.askers)))

    def end(self) -> None:
        """End the job for all: at once where it waits, at its next step where it runs."""
        self._stop.set()
        if self._line.drop(self):
            self._over("cancelled")

    def run(self) -> None:
        """Do the work, here and now; called by the device's thread."""
        self.started, self.state = time.monotonic(), "running"
        _ask_at_every_layer()
        _here.job = self
        try:
            assert self._work is not None
            with compiling(self._compiles):
                self.result = self._work(Teller(self))
            self._over("done")
        except Cancelled:
            self._over("cancelled")
        except BaseException as error:
            self.fail(error)
        finally:
            _here.job = None

    def _compiles(self, kernel: str) -> None:
        """What the visitor waits for meanwhile: the work goes on, and says where it is, once that is done."""
        self.doing = f"compiling the GPU kernel {kernel}, once on this machine"

    def fail(self, error: BaseException) -> None:
        """End with the sentence of an error, whatever the error is; what is over stays as it ended."""
        if self.over:
            return
        self.problem = f"{self.title} met an error of its own ({type(error).__name__}); try other settings."
        try:
            self.problem = sentence(error, self.title, self.device)
            log(error, self.title)
            let_go(error)
        finally:
            self._over("failed")

    def go_on(self) -> None:
        """Raises: Cancelled after the job was ended."""
        if self._stop.is_set():
            raise Cancelled

    def _over(self, state: str) -> None:
        self._work = self.so_far = None  # what the work held on to may go
        self.state = state
        try:
            if state != "done":
                clear_memory(self.device)
        finally:
            self.ended.set()


class Jobs:
    """All jobs of one server."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, Line[Job]] = {}
        self._lock = threading.RLock()
        self._tender: threading.Thread | None = None
        atexit.register(self.close)

    def close(self) -> None:
        """End what waits or runs, and wait a moment for it: the program is about to end."""
        for job in self.clear():
            job.ended.wait(CLOSE_S)

    def clear(self) -> list[Job]:
        """End what waits or runs, for all; those jobs."""
        left = self.unfinished()
        for job in reversed(left):  # the last first, or the line would begin one that is to end
            job.end()
        return left

    def submit(
        self, device: str, key: str, title: str, work: Work, asker: Asker = ALONE, private: bool = False
    ) -> Job | None:
        """The job with this key: the one that waits, runs or is done, or a new one in the device's line; None where
        the visitor has as many jobs waiting as the rules allow."""
        with self._lock:
            known = self._jobs.get(key)
            if known is not None and known.state not in ("failed", "cancelled"):
                known.askers.add(asker)
                return known
            if self.full(asker):
                return None
            line = self._lines.setdefault(device, Line(device))
            job = self._jobs[key] = Job(device, key, title, work, line, self.rules, private)
            job.askers.add(asker)
            over = [old for old, one in self._jobs.items() if one.over]
            for old in over[: max(0, len(over) - KEPT)]:
                del self._jobs[old]
            line.put(job)
            self._look_after()
        return job

    def full(self, asker: Asker) -> bool:
        """Whether the visitor has as many jobs waiting as the rules allow."""
        most = self.rules.most_waiting
        return most is not None and len(self.waiting_of(asker)) >= most

    def waiting_of(self, asker: Asker) -> list[Job]:
        """The jobs that wait in line for this visitor, in all of the visitor's tabs."""
        with self._lock:
            return [job for job in self._jobs.values() if job.state == "waiting" and asker.visitor in job.visitors]

    def unfinished(self) -> list[Job]:
        """What waits or runs, device by device in the order in which it is served."""
        with self._lock:
            lines = list(self._lines.values())
        return [job for line in lines for job in line.jobs()]

    def get(self, key: str) -> Job | None:
        """The job with this key, whatever became of it; None if there is none (any more)."""
        return self._jobs.get(key)

    def forget(self, key: str) -> None:
        """Let go of a finished job, so that the same question is asked anew."""
        with self._lock:
            if key in self._jobs and self._jobs[key].over:
                del self._jobs[key]

    def cancel(self, key: str, asker: Asker = ALONE) -> None:
        """A visitor wants the job no more: it goes on where others wait for it, and ends where nobody does."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return
            job.askers -= {one for one in job.askers if one.visitor == asker.visitor}
            if not job.askers:
                job.end()

    def leave(self, key: str, asker: Asker) -> None:
        """A visitor has moved on to another question: a job that waits for nobody else is dropped; one that runs goes
        on, unless the rules end what nobody waits for."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.over:
                return
            job.askers.discard(asker)
            if not job.askers and (job.state == "waiting" or self.rules.leave_s is not None):
                self._drop(job)

    def tend(self) -> None:
        """Drop the jobs that nobody waits for any more, and the results on texts of visitors who have gone."""
        with self._lock:
            for job in list(self._jobs.values()):
                attended = job.attended
                job.left_at = None if attended else job.left_at or time.monotonic()
                if job.left_at is None:
                    continue
                leave_s = RELOAD_S if self.rules.leave_s is None else self.rules.leave_s
                if time.monotonic() - job.left_at >= leave_s and (
                    job.private if job.over else self.rules.leave_s is not None
                ):
                    self._drop(job)

    def _drop(self, job: Job) -> None:
        job.end()
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]

    def _look_after(self) -> None:
        """Begin to tend; the thread goes with the program."""
        if self._tender is None:
            self._tender = threading.Thread(target=self._tend_for_ever, name="jobs' tender", daemon=True)
            self._tender.start()

    def _tend_for_ever(self) -> None:
        while True:
            time.sleep(TEND_S)
            try:
                self.tend()
            except Exception as error:
                log(error, "tending the jobs")
