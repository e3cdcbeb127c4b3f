"""Who waits for what? The teacher's page of a class: the jobs of all visitors, and the checkpoints that they left."""

import streamlit as st

from ui import exports, frame, kept, visitors
from ui.job import Job
from ui.markdown import as_is

LOOK_S = 2.0
COLUMNS = [6, 3, 2, 2]


def clear_line() -> None:
    kept.jobs().clear()


def row(job: Job) -> None:
    """One job: what it is, how far, who waits, a way to end it."""
    count = len(job.visitors)
    title, state, waiting, end = st.columns(COLUMNS, vertical_alignment="center")
    title.markdown(as_is(job.title))
    state.markdown(f"runs on {job.device}: {job.share:.0%}" if job.state == "running" else f"waits on {job.device}")
    waiting.markdown(f"{count} visitor{'s' * (count != 1)}" + ("" if job.attended else ", away"))
    end.button("End it", key=f"end_{job.number}", on_click=job.end, help="for everybody who waits for it")


@st.fragment(run_every=LOOK_S)
def line() -> None:
    jobs = kept.jobs().unfinished()
    open_tabs = sum(visitors.is_open(session) for session in visitors.sessions())
    frame.metrics({"Open tabs": f"{open_tabs}", "Jobs": f"{len(jobs)}"})
    for job in jobs:
        row(job)
    if jobs:
        st.button("Clear the line", on_click=clear_line, key="clear", type="primary", help="ends every job, for all")
    else:
        st.caption("Nobody waits.")


def checkpoints() -> None:
    """The checkpoints of this server, and a way to make room."""
    st.header("Checkpoints")
    found = exports.listed()
    if not found:
        st.caption("There are none.")
        return
    st.caption(
        f"{len(found)} take {sum(one.bytes for one in found) / 1e6:,.1f} MB of {exports.limit_text()}. They are this "
        "user's alone to read on the disk; visitors get them as one .zip."
    )
    st.dataframe([{"name": one.folder.name, "MB": one.bytes / 1e6} for one in found], hide_index=True)
    st.button("Delete them all", on_click=exports.delete_all, key="delete")


frame.bare("Who waits for what?", __file__)
if visitors.is_teacher():
    line()
    checkpoints()
else:
    st.info("This page is the teacher's. Its link stands in the server's log.")
