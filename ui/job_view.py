"""A long job on a page: its place in line, its progress by layer, the time left, a way to end it; then its result.

result = job_view.result_of(device, key, title, work)      None while there is none yet: draw nothing that needs it
so_far = job_view.so_far(key)                              what the job has shown of it by then
"""

from __future__ import annotations

import hashlib
from typing import Any

import streamlit as st

from quantcore.text.reading import OWN
from ui import kept, visitors
from ui.job import Job, Progress, Teller, Work
from ui.markdown import as_is

PATIENCE_S = 0.4
POLL_S = 0.5
TURN_S = 2.0  # between two looks at whether one more job may be asked for

__all__ = ["Progress", "Teller", "Work", "ask", "kept_notice", "leave", "result_of", "so_far", "words"]


def result_of(
    device: str,
    key: str,
    title: str,
    work: Work,
    start: bool = True,
    place: str | None = None,
    patience_s: float | None = None,
    button: str = "Run it",
    passing: bool = False,
    rest_s: float = 0.0,
) -> Any:
    """The job's result; while there is none, its progress stands here instead, and None is returned. The page is drawn
    again when the job is over, and whenever it has shown more of its result. Call it inside a container that is there
    with and without a job: a progress bar that comes and goes would have the charts below it built anew.

    start    whether the job begins by itself; else a button, labelled `button`, stands here first. A job that was
             cancelled never does.
    place    a name for where on the page this stands: of the jobs that a visitor's moves ask for at one place, only
             the last waits in line (`Jobs.leave`)
    patience_s   how long a fresh job is waited for, so that a quick one shows no progress; 0: what stands below is
             drawn at once
    passing  a move's job: it ends where the visitor moves on or leaves, unless others wait for it
    rest_s   seconds in which a fresh job does not begin, so that it is not in the way of what the page draws now, and
             of the moves that follow at once
    Raises: ValueError with the sentence that ended the job."""
    jobs, mark = kept.jobs(), hashlib.sha256(key.encode()).hexdigest()[:12]
    if place is not None:
        _move_on(place, key)
    job, declined = jobs.get(key), key in _declined()
    if start and not declined and (job is None or not job.over):
        job = jobs.submit(device, key, title, work, visitors.asker(), OWN in key, passing, rest_s)
        if job is None:
            _wait_for_a_turn(title)
            return None
    if job is not None and not declined:
        job.ended.wait(max(0.0, (PATIENCE_S if patience_s is None else patience_s) - job.age_s))
    if job is not None and job.state == "done":
        return job.result
    if job is None or job.state in ("cancelled", "failed") or declined:
        if declined or (job is not None and job.state == "cancelled"):
            st.info(f"{as_is(title)}: cancelled. Nothing was kept of it.")
        label = button if job is None and not declined else "Run it again"
        st.button(label, on_click=ask, args=(device, key, title, work), key=f"run_{mark}", type="primary")
        if job is not None and job.problem:
            raise ValueError(job.problem)
        return None
    job.askers.add(visitors.asker())
    _watch(job, mark, job.so_far)
    return None


def begins(key: str, start: bool = True, **_: Any) -> bool:
    """Whether `result_of` waits for this job, or has it, without a press of its button."""
    return kept.jobs().get(key) is not None or (start and key not in _declined())


def ask(device: str, key: str, title: str, work: Work) -> None:
    """Ask for a job, where it was declined or failed before too; a button's callback."""
    _declined().discard(key)
    if kept.jobs().submit(device, key, title, work, visitors.asker(), private=OWN in key) is None:
        st.toast(f"{_waiting_words()} Ask again then.")


def so_far(key: str) -> Any:
    """What the job with this key has shown of its result; None: nothing, or it does not run."""
    job = kept.jobs().get(key)
    return None if job is None else job.so_far


def leave(place: str) -> None:
    """The visitor has moved on from what was asked for at a place, and asks for nothing there now."""
    _move_on(place, "")


def kept_notice() -> None:
    """A line where the file of kept results had to be set aside, or cannot be used."""
    if notice := kept.store().notice:
        st.caption(as_is(notice))


def _declined() -> set[str]:
    """The jobs that this visitor has cancelled."""
    found: set[str] = st.session_state.setdefault("_declined", set())
    return found


def _cancel(key: str) -> None:
    _declined().add(key)
    kept.jobs().cancel(key, visitors.asker())


def _move_on(place: str, key: str) -> None:
    """Leave the job that stood here before, where it is another one."""
    before = st.session_state.get(f"_job_{place}", key)
    st.session_state[f"_job_{place}"] = key
    if before != key:
        kept.jobs().leave(before, visitors.asker())


@st.fragment(run_every=TURN_S)
def _wait_for_a_turn(title: str) -> None:
    """Instead of a job that may not be asked for yet: say so, and draw the page again when it may."""
    if not kept.jobs().full(visitors.asker()):
        st.rerun()
    st.info(f"{as_is(title)}: {_waiting_words()} This one follows by itself.")


def _waiting_words() -> str:
    waiting = kept.jobs().waiting_of(visitors.asker())
    titles = as_is(", ".join(job.title for job in waiting))
    return f"{len(waiting)} jobs of yours wait in line already ({titles})."


@st.fragment(run_every=POLL_S)
def _watch(job: Job, mark: str, drawn: Any) -> None:
    if job.over or job.so_far is not drawn:
        st.rerun()
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"job_{mark}"):
        st.progress(min(1.0, job.share), text=words(job))
        st.button("Cancel", on_click=_cancel, args=(job.key,), key=f"cancel_{mark}", help=cancel_words(job))


def cancel_words(job: Job) -> str:
    others = len(job.visitors - {visitors.asker().visitor})
    return (
        f"it goes on for {others} other{'s' * (others > 1)} who wait for it" if others else "ends it at its next step"
    )


def words(job: Job) -> str:
    """Where the job stands, in a line of Markdown."""
    if job.state == "waiting":
        ahead = job.ahead
        place = f"number {ahead + 1}" if ahead else "next"
        return f"{as_is(job.title)}: {place} in line on {job.device}; {promise(job)}"
    left = job.left_s
    time_left = (
        "" if left is None else f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.0f} min left"
    )
    doing = f" - {as_is(job.doing)}" if job.doing else ""
    return f"{as_is(job.title)}: {job.share:.0%}{time_left}{doing}"


def promise(job: Job) -> str:
    """What becomes of a job whose visitor goes elsewhere."""
    leave_s = kept.jobs().rules.leave_s
    if job.passing:
        return "the next move ends it"
    if leave_s is None:
        return "you may leave the page, it will be done all the same"
    return f"you may open other pages; it ends {leave_s:.0f} s after you close this tab"
