"""A long job on a page: its place in line, its progress by layer, the time left, a way to end it; then its result.

result = job_view.result_of(device, key, title, work)      None while there is none yet: draw nothing that needs it
so_far = job_view.so_far(key)                              what the job has shown of it by then
"""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import uuid4

import streamlit as st
from torch import Tensor, nn

from quantcore.model.loading import LoadedModel
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.plan import Plan
from ui import cached
from ui.jobs import Job, Progress, Teller, Work

PATIENCE_S = 0.4
POLL_S = 0.5

__all__ = ["Progress", "Teller", "Work", "candidate", "kept_notice", "result_of", "so_far", "words"]


def result_of(
    device: str,
    key: str,
    title: str,
    work: Work,
    start: bool = True,
    place: str | None = None,
    patience_s: float = PATIENCE_S,
) -> Any:
    """The job's result; while there is none, its progress stands here instead, and None is returned. The page is drawn
    again when the job is over, and whenever it has shown more of its result. Call it inside a container that is there
    with and without a job: a progress bar that comes and goes would have the charts below it built anew.

    start    whether the job begins by itself; else a button stands here first. A job that was cancelled never does.
    place    a name for where on the page this stands: of the jobs that a visitor's moves ask for at one place, only
             the last waits in line (`Jobs.leave`)
    patience_s   how long a fresh job is waited for, so that a quick one shows no progress; 0: what stands below is
             drawn at once
    Raises: ValueError with the sentence that ended the job."""
    jobs, mark = cached.jobs(), hashlib.sha256(key.encode()).hexdigest()[:12]
    visitor = st.session_state.setdefault("_visitor", uuid4().hex)
    if place is not None:
        before = st.session_state.get(f"_job_{place}", key)
        st.session_state[f"_job_{place}"] = key
        if before != key:
            jobs.leave(before, visitor)
    job = jobs.get(key)
    if job is None and start:
        job = jobs.submit(device, key, title, work)
    if job is not None:
        job.ended.wait(max(0.0, patience_s - job.age_s))
    if job is not None and job.state == "done":
        return job.result
    if job is None or job.state in ("cancelled", "failed"):
        if job is not None and job.state == "cancelled":
            st.info(f"{title}: cancelled. Nothing was kept of it.")
        label = "Run it" if job is None else "Run it again"
        st.button(label, on_click=jobs.submit, args=(device, key, title, work), key=f"run_{mark}", type="primary")
        if job is not None and job.problem:
            raise ValueError(job.problem)
        return None
    job.askers.add(visitor)
    _watch(job, mark, job.so_far)
    return None


def so_far(key: str) -> Any:
    """What the job with this key has shown of its result; None: nothing, or it does not run."""
    job = cached.jobs().get(key)
    return None if job is None else job.so_far


def kept_notice() -> None:
    """A line where the file of kept results had to be set aside, or cannot be used."""
    if notice := cached.store().notice:
        st.caption(notice)


@st.fragment(run_every=POLL_S)
def _watch(job: Job, mark: str, drawn: Any) -> None:
    if job.over or job.so_far is not drawn:
        st.rerun()
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"job_{mark}"):
        st.progress(min(1.0, job.share), text=words(job))
        st.button("Cancel", on_click=job.cancel, key=f"cancel_{mark}", help="ends it for everybody who waits for it")


def words(job: Job) -> str:
    """Where the job stands, in a line."""
    if job.state == "waiting":
        ahead = job.ahead
        place = {1: "2nd", 2: "3rd"}.get(ahead, f"{ahead + 1}th") if ahead else "next"
        return f"{job.title}: {place} in line on {job.device}; you may leave the page, it will be done all the same"
    left = job.left_s
    time_left = (
        "" if left is None else f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.0f} min left"
    )
    doing = f" - `{job.doing}`" if job.doing else ""
    return f"{job.title}: {job.share:.0%}{time_left}{doing}"


def candidate(loaded: LoadedModel, scheme: str, calibration: Tensor, progress: Progress) -> nn.Module:
    """The quantized copy, inside a job; calibration text is read only for a plan that asks for it."""
    plan = Plan.parse(scheme)
    return quantize_model(
        loaded.model, scheme, progress=progress, calibration=calibration if plan.needs_text else None
    )[0]
