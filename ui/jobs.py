"""Long work outside the pages' threads: one heavy job at a time per device, the others wait in line.

    job = jobs.submit("cpu", key, "4 schemes on 16,384 tokens", work, asker)      work(tell) -> result
    job.state, job.share, job.doing, job.left_s, job.ahead, job.so_far
    jobs.cancel(key, asker)

A job belongs to all who asked for it: the same key asked for by two browsers is one job, a reload or a second tab
neither ends nor doubles it, and a cancel ends it for those who go on waiting only when nobody does. `job` says what one
is.

`Rules` say what a server of many allows: how many jobs a visitor may have waiting, and how long a job goes on for whom
nobody waits any more. This file knows no streamlit; `job_view` shows a job on a page.
"""

from __future__ import annotations

import atexit
import threading
import time

from ui.job import ALONE, Asker, Job, Rules, Work
from ui.job_end import log
from ui.line import Line

KEPT = 32  # finished jobs that can still be asked for their result
CLOSE_S = 3.0
TEND_S = 1.0
RELOAD_S = 60.0  # that a result on a visitor's own text waits for a tab that is loaded anew


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
        self,
        device: str,
        key: str,
        title: str,
        work: Work,
        asker: Asker = ALONE,
        private: bool = False,
        passing: bool = False,
        rest_s: float = 0.0,
    ) -> Job | None:
        """The job with this key: the one that waits, runs or is done, or a new one in the device's line; None where
        the visitor has as many jobs waiting as the rules allow. private, passing, rest_s: as `Job` has them."""
        with self._lock:
            known = self._jobs.get(key)
            if known is not None and known.state not in ("failed", "cancelled"):
                known.askers.add(asker)
                return known
            if self.full(asker):
                return None
            line = self._lines.setdefault(device, Line(device))
            job = self._jobs[key] = Job(device, key, title, work, line, self.rules, private, passing, rest_s)
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
        on, unless it is a passing one, or the rules end what nobody waits for."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.over:
                return
            job.askers.discard(asker)
            if not job.askers and (job.state == "waiting" or job.passing or self.rules.leave_s is not None):
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
                ends = job.private if job.over else job.passing or self.rules.leave_s is not None
                if ends and time.monotonic() - job.left_at >= leave_s:
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
