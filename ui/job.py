"""One piece of long work: who asked for it, how it speaks of itself, how it ends.

`work` says how far it is and what it has found so far through `tell` (`Teller`). When the job is ended it stops there,
or at the next layer that any model runs on the job's thread, whichever is first. Whatever work raises, BaseException
too, ends the job with a sentence.
"""

from __future__ import annotations

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
SHOW_EVERY_S = 1.0  # the page is drawn anew for what is shown, so not more often
_here = threading.local()  # .job: what this thread works on


class Cancelled(BaseException):
    """Raised inside the work after the job was ended from outside. No Exception: who bears the faults of a stranger's
    model, and goes on, would take this for one of them and keep what it found by then."""


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

    def part(self, number: int, of: int) -> None:
        """The work comes to one of a few parts of about equal length, which `doing` tells of."""
        self._job.part = number / of, 1 / of
        self(number / of, "")

    def show(self, so_far: Any) -> None:
        self._job.go_on()
        if (now := time.monotonic()) - self._shown >= SHOW_EVERY_S:
            self._job.so_far, self._shown = so_far, now


Work = Callable[[Teller], Any]


@cache
def _ask_at_every_layer() -> None:
    """From now on every module of every model asks, before it runs on a job's thread, whether that job goes on."""

    def ask(module: nn.Module, args: Any) -> None:
        job = getattr(_here, "job", None)
        if job is not None:
            job.go_on()

    register_module_forward_pre_hook(ask)


def doing(words: str, share: float = 0.0) -> None:
    """Say what the job on this thread does now, where there is one, and how far its present part is."""
    job = getattr(_here, "job", None)
    if job is not None:
        job.go_on()
        start, width = job.part
        job.doing, job.share = words, start + share * width


class Job:
    """One piece of work. state: waiting, running, done, failed, cancelled. share 0..1, doing: the layer at hand.

    so_far    what the work has shown of its result, None at first
    askers    who waits for it
    left_at   since when nobody does, in monotonic seconds
    private   made of a visitor's own text: the result goes with the visitor
    passing   what a move asks for: of no use once nobody waits for it
    rest_s    seconds from when it was asked for in which it does not begin: the next move may ask for another
    number    its own, of all jobs of this program"""

    _count = count(1)

    def __init__(
        self,
        device: str,
        key: str,
        title: str,
        work: Work,
        line: Line[Job],
        rules: Rules,
        private: bool,
        passing: bool = False,
        rest_s: float = 0.0,
    ) -> None:
        self.device, self.key, self.title, self.private, self.passing = device, key, title, private, passing
        self.number = next(Job._count)
        self.state, self.share, self.doing = "waiting", 0.0, ""
        self.part = 0.0, 1.0  # where the part at hand begins, and its share of the whole
        self.result: Any = None
        self.so_far: Any = None
        self.askers: set[Asker] = set()
        self.left_at: float | None = None
        self.problem: str | None = None
        self.asked, self._rest_s = time.monotonic(), rest_s
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
    def rests_s(self) -> float:
        """Seconds until it may begin; 0 or less: it may."""
        return self._rest_s - self.age_s

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
