"""A visitor without a browser: one WebSocket that speaks Streamlit's own protocol, so the server does all the work of a
visit but for the drawing.

async with visit(url) as visitor:
    await visitor.open("Scheme_duel", "duel=W8A8%0AFP8")        until the script has ended
    await visitor.follow(5.0)                                    what the server sends by itself meanwhile
    visitor.words                                                 all texts that were shown, in order
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

LIMIT_S = 120.0


class Visitor:
    """One tab. `words`: every text that was shown in it; `elements`: every element, with the fragment it stands in."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.words: list[str] = []
        self.elements: list[tuple[Any, str]] = []
        self._place = ("", "")  # page and query
        self._script = ""  # what the server calls the page
        self._repeating: set[str] = set()  # fragments with run_every
        self._named: set[str] = set()  # those that the run under way has named

    async def open(self, page: str, query: str = "") -> float:
        """Open a page in the state of a link; seconds until its script has ended."""
        self._place, self._script = (page, query), ""
        return await self.send(self._message())

    def _message(self, fragment: str = "") -> BackMsg:
        """A request to run the page, or a fragment of it."""
        message = BackMsg()
        message.rerun_script.page_name, message.rerun_script.query_string = self._place
        message.rerun_script.fragment_id = fragment
        message.rerun_script.page_script_hash = self._script
        return message

    async def send(self, message: BackMsg) -> float:
        """Send what a browser would; seconds until the script that it starts has ended."""
        started = time.perf_counter()
        await self._socket.send(message.SerializeToString())
        async with asyncio.timeout(LIMIT_S):
            while await self._receive() != "script_finished":
                pass
        return time.perf_counter() - started

    async def press(self, label: str) -> float:
        """Press the button with this label that was shown last."""
        button, fragment = next(
            (one.button, where)
            for one, where in reversed(self.elements)
            if one.HasField("button") and one.button.label == label
        )
        message = self._message(fragment)
        state = message.rerun_script.widget_states.widgets.add(id=button.id)
        state.trigger_value = True
        return await self.send(message)

    async def move(self, shows: Callable[[Any], bool], set_value: Callable[[Any, Any], None]) -> float:
        """Move the control whose element `shows` holds of, the one that was shown last; `set_value(state, element)`
        says where to, in Streamlit's own words."""
        found, fragment = next((one, where) for one, where in reversed(self.elements) if shows(one))
        element = getattr(found, found.WhichOneof("type"))
        message = self._message(fragment)
        set_value(message.rerun_script.widget_states.widgets.add(id=element.id), element)
        return await self.send(message)

    async def follow(self, seconds: float, until: str = "") -> bool:
        """Take what the server sends for some seconds, as a browser rerunning what reruns itself; True as soon as a
        text that holds `until` was shown."""
        seen = len(self.words)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self._receive()
            except TimeoutError:
                await self._rerun_fragments()
            if until and any(until in one for one in self.words[seen:]):
                return True
        return False

    async def _rerun_fragments(self) -> None:
        """What a browser does for a fragment with run_every."""
        for fragment in sorted(self._repeating):
            message = self._message(fragment)
            message.rerun_script.is_auto_rerun = True
            await self._socket.send(message.SerializeToString())

    async def _receive(self) -> str:
        answer = ForwardMsg()
        answer.ParseFromString(await self._socket.recv())
        kind: str = answer.WhichOneof("type") or ""
        if kind == "auto_rerun":
            self._named.add(answer.auto_rerun.fragment_id)
        if kind == "navigation":
            self._script = answer.navigation.page_script_hash
        if kind == "script_finished":
            whole = answer.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
            self._repeating = self._named if whole else self._repeating | self._named
            self._named = set()
        if kind == "delta" and answer.delta.HasField("new_element"):
            self.elements.append((answer.delta.new_element, answer.delta.fragment_id))
            self.words += texts(answer.delta.new_element)
        return kind


def texts(element: Any) -> list[str]:
    """The words of an element that a visitor reads."""
    kind = element.WhichOneof("type")
    shown = getattr(element, kind)
    return [text for name in ("body", "text", "label") if isinstance(text := getattr(shown, name, None), str) and text]


@asynccontextmanager
async def visit(url: str, **headers: str) -> AsyncIterator[Visitor]:
    """Open a tab on the server at `url`; closed when the block ends."""
    address = url.replace("http", "ws", 1) + "/_stcore/stream"
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    async with websockets.connect(
        address, subprotocols=[websockets.Subprotocol("streamlit")], max_size=None, additional_headers=more
    ) as socket:
        yield Visitor(socket)
