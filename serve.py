"""The server of the lab, for its user or for a class.

    streamlit run serve.py                                                               http://127.0.0.1:8501
    QUANT_CLASS=reference streamlit run serve.py --server.address 0.0.0.0                for other machines in the room

The pages run under this server alone (`streamlit run app.py` says so); it adds
- CompressedScripts: 2.7 MB instead of 7.6 MB per browser (ui/server/scripts.py);
- Guard: whom the server answers, and what it lets a browser do (ui/server/guard.py);
- class mode: what strangers may do (ui/classroom.py); without it no other machine is listened to;
- presence: what a visitor brought goes when the visitor has gone (ui/server/presence.py);
- warm_up, in a thread: imports transformers and the pages, loads the reference model, and lets the server open its
  doors then (3 s; OPENS_S at most): a visitor who came meanwhile would read a page whose controls come seconds later.
  Nothing is collected meanwhile, for all that imports make stays: that saves half a second. It ends with gc.freeze: a
  full garbage collection over the objects of torch and a model takes 150-300 ms in which nobody else is served. With 30
  visitors, freezing them is the difference between 3.3 s and 0.05 s at the 95th percentile. What comes later is frozen
  as it adds up (ui/memory.py). Scripts are compressed beside it, on another core;
- get_ready, after it: the course's scenes are found, the default duel and the first rules measured, while nobody asks
  for anything (ui/ready.py).
- follow_links: a link to another page keeps the model, the layer and the text (ui/server/links.py);
- warm_kernels, where there is a GPU: compiles its kernels in processes of their own, once a machine, and loads them.
"""

import asyncio
import gc
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from streamlit import config, file_util

from ui import visitors
from ui.classroom import classroom, require_address
from ui.memory import keep_rounds_short
from ui.server import announce
from ui.server.guard import Guard, own_names
from ui.server.links import follow_links
from ui.server.presence import watch_sessions
from ui.server.scripts import CompressedScripts, Scripts, app_folders

OPENS_S = 30.0  # at most that visitors wait before the server's doors: a GPU may take long to begin
scripts = Scripts(app_folders)


def warm_up(loaded: threading.Event) -> None:
    """Load what every visitor needs; if that fails the server still serves, and the page will say what is missing."""
    gc.disable()
    try:
        from quantcore.lab.house import default_device
        from quantcore.model.locate import REFERENCE
        from ui import kept

        device = default_device()
        if device != "cpu":
            threading.Thread(target=warm_kernels, args=(device,), name="kernels", daemon=True).start()
        from ui.ready import get_ready  # the course's pages too

        lab = kept.shared_lab(REFERENCE, device)
        lab.load()
        loaded.set()
        kept.warm_up(lab)
        get_ready(lab)
    except Exception:
        logging.getLogger(__name__).exception("Warming up failed; the first visitor will wait for the model instead.")
    finally:
        loaded.set()
        gc.enable()


def warm_kernels(device: str) -> None:
    """Compile and load what the pages launch on a GPU; whoever needs what is missing by then sees it being compiled."""
    from quantcore.lab.warm import warm

    done = warm(device)
    for work, problem in done.failed.items():
        logging.getLogger(__name__).warning("A kernel could not be compiled ahead, for %s: %s", work, problem)


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    os.umask(0o077)  # what the server writes is its user's alone
    keep_rounds_short(lambda: len(visitors.sessions()))
    loaded = threading.Event()
    threading.Thread(target=warm_up, args=(loaded,), name="warm-up", daemon=True).start()
    threading.Thread(target=scripts.pack_all, name="scripts", daemon=True).start()
    await asyncio.to_thread(loaded.wait, OPENS_S)
    watching = asyncio.create_task(watch_sessions())
    announce.say()
    yield
    watching.cancel()


def known_hosts() -> list[str]:
    """The names that a browser may call this server by, beside addresses in figures and localhost."""
    return [*config.get_option("server.allowedHosts"), *own_names()]


try:
    require_address(config.get_option("server.address"))
except ValueError as refusal:
    print(f"serve.py: {refusal}", file=sys.stderr)
    raise SystemExit(2) from None

follow_links()
hosts = known_hosts()
config.set_option("server.allowedHosts", ["*"])  # the guard asks first, for all requests; Streamlit for sockets only
index = Path(file_util.get_static_dir()) / "index.html"
app = st.App(
    "app.py",
    middleware=[
        Middleware(Guard, hosts=hosts, index=index, count=classroom() is not None),
        Middleware(CompressedScripts, scripts=scripts),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    app.run()
