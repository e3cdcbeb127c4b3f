"""Long work outside the pages' threads: one heavy job at a time per device, the others wait in line.

    job = jobs.submit("cpu", key, "4 schemes on 16,384 tokens", work)      work(tell) -> result
    job.state, job.share, job.doing, job.left_s, job.ahead, job.so_far
    job.cancel()

A job belongs to the server, not to a visitor: a reload, a second tab or a moved slider neither ends nor doubles it, and
the same key asked for by two browsers is one job. `work` says how far it is and what it has found so far through `tell`
(`Teller`). A cancel ends it there, or at the next layer that any model runs on the job's thread, whichever is first. A
ValueError or a lack of memory ends the job with a sentence, and the next one runs.
This file knows no streamlit; `job_view` shows a job on a page.
"""

from __future__ import annotations

import atexit
import gc
import logging
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from quantcore.model.memory import free_memory, size
from quantcore.numbers.kernels.launch import compiling

Progress = Callable[[float, str], None]
KEPT = 32  # finished jobs that can still be asked for their result
CLOSE_S = 3.0
SHOW_EVERY_S = 1.0  # the page is drawn anew for what is shown, so not more often
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")
ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", re.IGNORECASE)
UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Cancelled(Exception):
    """Raised inside the work after somebody has cancelled the job."""


class Teller:
    """How work speaks of itself: `tell(share, doing)` at least once a layer, `tell.show(so_far)` for what a page can
    draw already. Both raise Cancelled after the job was cancelled."""

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

    so_far    what the work has shown of its result, None at first; the visitors who asked for it are in `askers`"""

    def __init__(self, device: str, key: str, title: str, work: Work, line: _Line) -> None:
        self.device, self.key, self.title = device, key, title
        self.state, self.share, self.doing = "waiting", 0.0, ""
        self.result: Any = None
        self.so_far: Any = None
        self.askers: set[str] = set()
        self.problem: str | None = None
        self.asked = time.monotonic()
        self.started: float | None = None
        self.ended = threading.Event()
        self._work: Work | None = work
        self._line = line
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

    def cancel(self) -> None:
        """End the job: at once where it waits, at its next step where it runs."""
        self._stop.set()
        self._line.drop(self)

    def run(self) -> None:
        """Do the work, here and now; called by the device's thread."""
        self.started, self.state = time.monotonic(), "running"
        _ask_at_every_layer()
        _here.job = self
        try:
            assert self._work is not None
            with compiling(self._compiles):
                self.result = self._work(Teller(self))
            self._end("done")
        except Cancelled:
            self._end("cancelled")
        except Exception as error:
            self.problem = sentence(error, self)
            if not isinstance(error, ValueError):
                logging.getLogger(__name__).warning("the job %r failed: %r", self.title, error)
            _let_go(error)
            self._end("failed")
        finally:
            _here.job = None

    def _compiles(self, kernel: str) -> None:
        """What the visitor waits for meanwhile: the work goes on, and says where it is, once that is done."""
        self.doing = f"compiling the GPU kernel {kernel}, once on this machine"

    def go_on(self) -> None:
        """Raises: Cancelled after somebody has cancelled the job."""
        if self._stop.is_set():
            raise Cancelled

    def _end(self, state: str) -> None:
        self._work = self.so_far = None  # what the work held on to may go
        self.state = state
        if state != "done":
            clear_memory(self.device)
        self.ended.set()


class _Line:
    """The jobs of one device, in order, and the thread that runs them."""

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.lock = threading.Condition()
        self.thread: threading.Thread | None = None

    def put(self, job: Job) -> None:
        with self.lock:
            self.waiting.append(job)
            if self.thread is None:
                self.thread = threading.Thread(target=self._serve, name=f"jobs on {job.device}", daemon=True)
                self.thread.start()
            self.lock.notify()

    def drop(self, job: Job) -> None:
        with self.lock:
            if job not in self.waiting:
                return
            self.waiting.remove(job)
        job._end("cancelled")

    def ahead(self, job: Job) -> int:
        with self.lock:
            if job not in self.waiting:
                return 0
            return self.waiting.index(job) + (self.running is not None)

    def _serve(self) -> None:
        while True:
            with self.lock:
                self.running = None
                while not self.waiting:
                    self.lock.wait()
                job = self.running = self.waiting.popleft()
            job.run()
            del job


class Jobs:
    """All jobs of one server."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """End what waits or runs, and wait a moment for it: the program is about to end."""
        for job in [job for job in self._jobs.values() if not job.over]:
            job.cancel()
            job.ended.wait(CLOSE_S)

    def submit(self, device: str, key: str, title: str, work: Work) -> Job:
        """The job with this key: the one that waits, runs or is done, or a new one at the end of the device's line."""
        with self._lock:
            known = self._jobs.get(key)
            if known is not None and known.state not in ("failed", "cancelled"):
                return known
            line = self._lines.setdefault(device, _Line())
            job = self._jobs[key] = Job(device, key, title, work, line)
            over = [old for old, one in self._jobs.items() if one.over]
            for old in over[: max(0, len(over) - KEPT)]:
                del self._jobs[old]
            line.put(job)
        return job

    def get(self, key: str) -> Job | None:
        """The job with this key, whatever became of it; None if there is none (any more)."""
        return self._jobs.get(key)

    def forget(self, key: str) -> None:
        """Let go of a finished job, so that the same question is asked anew."""
        with self._lock:
            if key in self._jobs and self._jobs[key].over:
                del self._jobs[key]

    def leave(self, key: str, asker: str) -> None:
        """A visitor has moved on: a job that only waited, and for nobody else, is dropped; one that runs goes on."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return
            job.askers.discard(asker)
            if job.state == "waiting" and not job.askers:
                job.cancel()
                del self._jobs[key]


def sentence(error: Exception, job: Job) -> str:
    """What ended a job, for its page: what was asked, what was free, what to try."""
    if isinstance(error, ValueError):
        return str(error)
    text = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(mark in text for mark in OUT_OF_MEMORY):
        asked = ASKED.search(str(error))
        more = f"{size(float(asked[1]) * UNITS[asked[2].lower()])} more were asked for and " if asked else ""
        return (
            f"There was not enough memory on {job.device} for {job.title}: {more}{free_text(job.device)}. Try fewer "
            "tokens, fewer schemes at once, or a smaller model."
        )
    return f"{job.title} met an error of its own ({type(error).__name__}: {error}); try other settings."


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that an error, and those behind it, passed through: they hold the tensors."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def free_text(device: str) -> str:
    """How much memory a device has free, in words."""
    found = free_memory(torch.device(device))
    if found is None:
        return "how much was free is not known"
    free, total = found
    return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB were free"


def clear_memory(device: str) -> None:
    """Give back what a job that ended early has left behind."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
