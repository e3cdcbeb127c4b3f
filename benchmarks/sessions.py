"""A classroom without browsers: many WebSocket clients on one server, each moving a slider every few seconds.

Each client speaks Streamlit's own protocol (protobuf messages over /_stcore/stream), so the server does all the work of
a visit but for the drawing. A rerun's time runs from sending a slider's value to the message that ends the script.
"""

from __future__ import annotations

import asyncio
import random
import time

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

ClassPlace = tuple[str, str, float, float]


async def _rerun(
    socket: websockets.ClientConnection, message: BackMsg, label: str
) -> tuple[float, tuple[str, str] | None]:
    """Send a message and wait for the script's end: seconds it took, and of the slider called `label` its id and the
    fragment that it stands in, which is what a browser asks to rerun."""
    started = time.perf_counter()
    await socket.send(message.SerializeToString())
    found = None
    while True:
        answer = ForwardMsg()
        answer.ParseFromString(await socket.recv())
        element = answer.delta.new_element if answer.HasField("delta") else None
        if element is not None and element.HasField("slider") and element.slider.label == label:
            found = element.slider.id, answer.delta.fragment_id
        if answer.WhichOneof("type") == "script_finished":
            return time.perf_counter() - started, found


async def _visitor(url: str, place: ClassPlace, until: float, seed: int, pause_s: float) -> list[float]:
    page, label, first_position, last_position = place
    dice = random.Random(seed)
    await asyncio.sleep(dice.uniform(0, 2))
    address = url.replace("http", "ws", 1) + "/_stcore/stream"
    async with websockets.connect(address, subprotocols=[websockets.Subprotocol("streamlit")], max_size=None) as socket:
        first = BackMsg()
        first.rerun_script.page_name = page
        _, found = await _rerun(socket, first, label)
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
            times.append((await _rerun(socket, move, label))[0])
        return times


def measure(url: str, places: list[ClassPlace], sessions: int, seconds: float, pause_s: float) -> list[float]:
    """Rerun times in seconds of `sessions` visitors spread over `places`: page, slider, first and last position."""

    async def all_visitors() -> list[list[float]]:
        until = time.monotonic() + seconds
        return await asyncio.gather(
            *(_visitor(url, places[i % len(places)], until, i, pause_s) for i in range(sessions))
        )

    return [seconds for visitor in asyncio.run(all_visitors()) for seconds in visitor]
