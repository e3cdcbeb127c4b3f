"""The server for a class: app.py with its JavaScript compressed and its model loaded before the first visitor.

    streamlit run serve.py                                   http://127.0.0.1:8501
    streamlit run serve.py --server.address 0.0.0.0          for other machines in the room

`streamlit run app.py` works as well and looks the same: this file adds speed, nothing else.
- GzipOnce: 2.7 MB instead of 7.6 MB per browser, compressed once (see ui/gzip_once.py).
- warm_up, in a thread beside the server: imports torch and transformers and loads the reference model (3-4 s). The
  first picture needs torch and one weight's file only, so a visitor who comes meanwhile sees it before that is done;
  the next tokens wait for the model. Nothing is collected meanwhile, for all that imports make stays: that saves half a
  second. It ends with gc.freeze: Streamlit runs a full garbage collection after every script run, and over the objects
  of torch and a model that takes 150-300 ms in which nobody else is served. With 30 visitors, freezing them is the
  difference between 3.3 s and 0.05 s at the 95th percentile.
"""

import gc
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from starlette.middleware import Middleware

from ui.gzip_once import GzipOnce


def warm_up() -> None:
    """Load what every visitor needs; if that fails the server still serves, and the page will say what is missing."""
    gc.disable()
    try:
        from ui import cached  # torch and transformers: not before the server is up

        cached.warm_up()
    except Exception:
        logging.getLogger(__name__).exception("Warming up failed; the first visitor will wait for the model instead.")
    finally:
        gc.enable()


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
    yield


app = st.App("app.py", middleware=[Middleware(GzipOnce)], lifespan=lifespan)

if __name__ == "__main__":
    app.run()
