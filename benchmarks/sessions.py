"""A classroom without browsers: many WebSocket clients on one server, each moving a slider every few seconds.

Each client speaks Streamlit's own protocol (protobuf messages over /_stcore/stream), so the server does all the work of
a visit but for the drawing. A move's time runs from sending a slider's value to the message that ends the script; where
a job draws the move, to the end of the script that finds no progress on the page any more.
"""

from __future__ import annotations

import asyncio
import random
import time

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

ClassPlace = tuple[str, str, float, float]
PATIENCE_S = 60.0
LOOK_S = 0.1


async def _rerun(
    socket: websockets.ClientConnection, message: BackMsg, label: str
) -> tuple[tuple[str, str] | None, bool]:
    """Send a message and wait for the script's end: of the slider called `label` its id and the fragment that it stands
    in, which is what a browser asks to rerun, and whether a job's progress stands on the page."""
    await socket.send(message.SerializeToString())
    found, works = None, False
    while True:
        answer = ForwardMsg()
        answer.ParseFromString(await socket.recv())
        element = answer.delta.new_element if answer.HasField("delta") else None
        if element is not None and element.HasField("slider") and element.slider.label == label:
            found = element.slider.id, answer.delta.fragment_id
        works |= element is not None and element.HasField("progress")
        if answer.WhichOneof("type") == "script_finished":
            return found, works


async def _visitor(url: str, place: ClassPlace, until: float, seed: int, pause_s: float) -> list[float]:
    page, label, first_position, last_position = place
    dice = random.Random(seed)
    await asyncio.sleep(dice.uniform(0, 2))
    address = url.replace("http", "ws", 1) + "/_stcore/stream"
    async with websockets.connect(address, subprotocols=[websockets.Subprotocol("streamlit")], max_size=None) as socket:
        first = BackMsg()
        first.rerun_script.page_name = page
        opened = time.monotonic()
        found, _ = await _rerun(socket, first, label)
        while found is None and time.monotonic() - opened < PATIENCE_S:  # a job finds what the page opens with
            await asyncio.sleep(LOOK_S)
            found, _ = await _rerun(socket, first, label)
        if found is None:
            raise RuntimeError(f"the page {page!r} has no slider called {label!r}")
        slider_id, fragment_id = found
        times: list[float] = []
        while time.monotonic() < until:
            await asyncio.sleep(pause_s * dice.uniform(0.5, 1.5))
            move = BackMsg()
            move.rerun_script.page_name = page
            move.rerun_script.fragment_id = fragment_id
            state = move.rerun_script.widget_states.widgets.add(id=slider_id)
            state.double_array_value.data.append(dice.randint(int(first_position), int(last_position)))
            started = time.perf_counter()
            _, works = await _rerun(socket, move, label)
            while works and time.perf_counter() - started < PATIENCE_S:
                await asyncio.sleep(LOOK_S)
                _, works = await _rerun(socket, move, label)
            times.append(time.perf_counter() - started)
        return times


def measure(url: str, places: list[ClassPlace], sessions: int, seconds: float, pause_s: float) -> list[float]:
    """Rerun times in seconds of `sessions` visitors spread over `places`: page, slider, first and last position."""

    async def all_visitors() -> list[list[float]]:
        until = time.monotonic() + seconds
        return await asyncio.gather(
            *(_visitor(url, places[i % len(places)], until, i, pause_s) for i in range(sessions))
        )

    return [seconds for visitor in asyncio.run(all_visitors()) for seconds in visitor]
