"""What the server says of itself in its log when it starts: whom it serves, and what it allows them."""

from __future__ import annotations

import logging
import socket
from urllib.parse import quote

from streamlit import config

from ui.classroom import EXPORT_BYTES, LEAVE_S, MOST_WAITING, OPEN, VARIABLE, classroom, is_loopback, teachers_word
from ui.visitors import WORD

TEACHERS_PAGE = "The_line"
EVERYWHERE = (None, "", "0.0.0.0", "::")


def say() -> None:
    """One warning, which every log shows."""
    logging.getLogger(__name__).warning(words(config.get_option("server.address"), config.get_option("server.port")))


def words(address: str | None, port: int) -> str:
    here = classroom()
    if here is not None:
        reached = address if address not in EVERYWHERE else own_address()
        link = f"http://{reached}:{port}/{TEACHERS_PAGE}?{WORD}={quote(teachers_word(), safe='')}"
        return (
            f"Class mode. Models: {', '.join(here.models)}. A visitor may have {MOST_WAITING} jobs waiting; a job ends "
            f"{LEAVE_S:.0f} s after its last visitor has gone; checkpoints take {EXPORT_BYTES / 1e9:g} GB at most. "
            f"The teacher's page: {link}"
        )
    reached = "this machine alone" if is_loopback(address) else f"WHOEVER reaches {address}, because of {OPEN}"
    return (
        f"Serving {reached}: any model that this user may read, data sets of the hub, checkpoints without a limit. "
        f"For a class: {VARIABLE}=reference."
    )


def own_address() -> str:
    """This machine's address in its network, as its own routes say; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that nobody has (RFC 5737)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
