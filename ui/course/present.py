"""The teacher's side of a class: open it, the code to join by, how many have guessed, whose job runs, close it.

Who may present: in class mode who came by the teacher's link, else the server's own user. The page that opened a class
holds its key; a page that lost it, by being loaded anew, takes the class up again where its visitor may. Where the page
goes, by its buttons or by the browser's, the class goes.
"""

from __future__ import annotations

import streamlit as st

from quantcore.lab.lab import Lab
from ui import frame, kept, visitors
from ui.course import alone
from ui.course.rooms import Room, Rooms
from ui.course.scene import scenes
from ui.markdown import as_is
from ui.server.announce import own_address

LOOK_S = 1.0
KEY = "_room"  # in the session: (code, key)
LED = "_led"  # in the session: (code, scene) where this page stood
JOIN = "join"  # in a link


@st.cache_resource
def rooms() -> Rooms:
    """The classes of this server."""
    return Rooms()


def mine(lab: Lab | None = None) -> Room | None:
    """The class that this page presents; it looks at the page's model from now on."""
    code, key = st.session_state.get(KEY, (None, None))
    room = rooms().get(code)
    if room is None or not room.is_presenters(key):
        return None
    if lab is not None and (room.model, room.device) != (lab.id, lab.device):
        room.use(lab.id, lab.device)
    return room


def lead(room: Room, scene: int) -> None:
    """The class goes where the presenter's page has gone by another way than its buttons, as by the browser's Back."""
    before = st.session_state.get(LED)
    st.session_state[LED] = here = room.code, scene
    if before is not None and before[0] == room.code and before != here and room.scene != scene:
        room.go(scene)


def top(lab: Lab, scene: int, teacher: bool) -> None:
    """What stands in the top line: a button to begin, or the code and how many have guessed."""
    room = mine()
    with st.container(horizontal=True, vertical_alignment="center", width="content"):  # also empty: what stands open
        if room is not None:  # beside it stays so when a class begins
            st.html(f'<span class="course-code">{room.code}</span>', width="content")
            with st.container(key="course_count", width="content"):
                count()
    with st.popover("Class"):
        if room is None:
            _join()
            if teacher:
                st.button("Present to a class", on_click=begin, args=(lab.id, lab.device, scene), type="primary")
                for other in rooms().all():
                    st.button(f"Go on presenting {other.code}", on_click=take, args=(other,), key=f"take_{other.code}")
            return
        st.markdown("They open this link, or this page, and type the code under **Class**.")
        st.code(link(room), language=None, wrap_lines=True)
        st.button("Ask again", on_click=again, args=(room,), key="class_clear", help="the same scene, no guesses")
        st.button("End the class", on_click=end, args=(room,), key="class_end")
        line()


def _join() -> None:
    code = st.text_input("Join a class: its code", key="join_code", max_chars=6)
    if code:
        st.query_params.from_dict({JOIN: code.strip().upper()})
        st.rerun(scope="app")


@st.fragment(run_every=LOOK_S)
def count() -> None:
    """How many follow, how many have guessed; in the last game nobody guesses."""
    room = mine()
    if room is not None:
        guessed = room.scene < len(scenes())
        said = f"**{len(room.guesses)}** of {room.followers} guessed" if guessed else f"**{room.followers}** follow"
        st.markdown(said, width="content")


def line() -> None:
    """Whose job runs."""
    jobs = kept.jobs().unfinished()
    st.markdown("**Jobs of this server**" if jobs else "No job runs.")
    for job in jobs[:5]:
        st.caption(f"{as_is(job.title)}: {job.state}, {job.share:.0%}, {len(job.visitors)} waiting")
        st.button("End it", on_click=job.end, key=f"end_{job.number}")
    frame.link("All jobs", "pages/12_The_line.py", {})


def link(room: Room) -> str:
    """Where followers go; a server that listens to other machines says its address in the network."""
    address = st.context.url or ""
    base = address.partition("?")[0] or "/Course"
    for here in ("//localhost:", "//127.0.0.1:"):
        if here in base and _reached():
            base = base.replace(here, f"//{own_address()}:")
    return f"{base}?{JOIN}={room.code}"


def _reached() -> bool:
    """Whether other machines reach this server."""
    return st.get_option("server.address") not in ("localhost", "127.0.0.1", "::1")


def begin(model: str, device: str, scene: int) -> None:
    room = rooms().open(model, device)
    room.go(scene)
    st.query_params.pop("shown", None)
    take(room)


def take(room: Room) -> None:
    """Present from this page, which goes where the class is."""
    if visitors.may_present():
        st.session_state[KEY] = (room.code, room.key)
        alone.go(room.scene)
        alone.show(room.shown)


def again(room: Room) -> None:
    st.query_params.pop("shown", None)
    room.clear()


def end(room: Room) -> None:
    rooms().close(room)
    st.session_state.pop(KEY, None)
