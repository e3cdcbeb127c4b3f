"""What is left of a visitor's own text in the server's memory, run by test_server.py in a process of its own: serve.py,
one visitor who brings a text and leaves, a model that is loaded meanwhile (all that is there is frozen). Prints JSON:
the objects of the visit that are alive before and after the session has ended."""

import asyncio
import gc
import json
import os
import socket
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
MARK = "a zebra in the lighthouse "
LIMIT_S = 120.0

os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

import uvicorn  # noqa: E402
from streamlit import config  # noqa: E402

from quantcore.lab.house import Visit  # noqa: E402
from quantcore.text.files import LoadedText  # noqa: E402
from tests.visits import visit  # noqa: E402
from ui import memory, visitors  # noqa: E402
from ui.server import presence  # noqa: E402


def until(what: Any) -> None:
    end = time.monotonic() + LIMIT_S
    while not what() and time.monotonic() < end:
        time.sleep(0.2)


def of_the_visit() -> list[weakref.ref[Any]]:
    """The visit, and the texts that hold the mark. What the server has frozen by itself is not listed: thawed first."""
    gc.unfreeze()
    return [
        weakref.ref(one)
        for one in gc.get_objects()
        if isinstance(one, Visit) or (isinstance(one, LoadedText) and MARK in str(one.documents))
    ]


def alive(marks: list[weakref.ref[Any]]) -> list[str]:
    return sorted(type(one).__name__ for mark in marks if (one := mark()) is not None)


async def bring_a_text(url: str) -> tuple[list[weakref.ref[Any]], list[str]]:
    """What a visit keeps, and which of it is alive while it lasts."""
    async with visit(url) as tab:
        await tab.open("Outliers", f"text={quote('own text')}&own={quote(MARK * 60)}")
        end = time.monotonic() + LIMIT_S
        while True:
            found = of_the_visit()
            memory.freeze(sessions=1)  # takes also what nobody holds any more, unless a collector came first
            if len(kept := alive(found)) >= 2 or time.monotonic() > end:
                return found, kept
            await tab.follow(1.0)  # a busy machine reads the text in a job


def main() -> None:
    presence.GONE_S = presence.COLLECT_S = 2.0
    config._main_script_path = str(ROOT / "serve.py")
    import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(serve.app, host="127.0.0.1", port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    until(lambda: server.started)
    until(lambda: not any(thread.name == "warm-up" for thread in threading.enumerate()))
    marks, before = asyncio.run(bring_a_text(f"http://127.0.0.1:{port}"))
    until(lambda: not visitors.sessions())
    until(lambda: not alive(marks))
    print(json.dumps({"before": before, "after": alive(marks)}), flush=True)
    os._exit(0)  # the server's threads are of no interest


main()
