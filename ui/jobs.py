"""Long work outside the pages' threads: one heavy job at a time per device, the others wait in line.

    job = jobs.submit("cpu", key, "4 schemes on 16,384 tokens", work)      work(progress) -> result
    job.state, job.share, job.doing, job.left_s, job.ahead
    job.cancel()

A job belongs to the server, not to a visitor: a reload, a second tab or a moved slider neither ends nor doubles it, and
the same key asked for by two browsers is one job. `work` is told to stop through its progress callback, which it calls
at least once a layer. A ValueError or a lack of memory ends the job with a sentence, and the next one runs.
This file knows no streamlit; `job_view` shows a job on a page.
"""

from __future__ import annotations

import atexit
import gc
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from quantcore.memory import free_memory

Progress = Callable[[float, str], None]
Work = Callable[[Progress], Any]
KEPT = 32  # finished jobs that can still be asked for their result
CLOSE_S = 3.0
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")


class Cancelled(Exception):
    """Raised inside the work, by its progress callback, after somebody has cancelled the job."""


class Job:
    """One piece of work. state: waiting, running, done, failed, cancelled. share 0..1, doing: the layer at hand."""

    def __init__(self, device: str, key: str, title: str, work: Work, line: _Line) -> None:
        self.device, self.key, self.title = device, key, title
        self.state, self.share, self.doing = "waiting", 0.0, ""
        self.result: Any = None
        self.problem: str | None = None
        self.started: float | None = None
        self.ended = threading.Event()
        self._work: Work | None = work
        self._line = line
        self._stop = threading.Event()

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

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
        try:
            assert self._work is not None
            self.result = self._work(self._progress)
            self._end("done")
        except Cancelled:
            self._end("cancelled")
        except Exception as error:
            self.problem = sentence(error, self)
            if not isinstance(error, ValueError):
                logging.getLogger(__name__).warning("the job %r failed: %r", self.title, error)
            traceback.clear_frames(error.__traceback__)  # the frames hold the tensors
            error.__traceback__ = None
            self._end("failed")

    def _progress(self, share: float, doing: str) -> None:
        if self._stop.is_set():
            raise Cancelled
        self.share, self.doing = share, doing

    def _end(self, state: str) -> None:
        self._work = None  # what the work held on to may go
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


def sentence(error: Exception, job: Job) -> str:
    """What ended a job, for its page: what was asked, what was free, what to try."""
    if isinstance(error, ValueError):
        return str(error)
    text = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(mark in text for mark in OUT_OF_MEMORY):
        return (
            f"There was not enough memory on {job.device} for {job.title}: {free_text(job.device)} at the time. Try "
            "fewer tokens, fewer schemes at once, or a smaller model."
        )
    return f"{job.title} met an error of its own ({type(error).__name__}: {error}); try other settings."


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
