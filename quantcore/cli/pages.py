"""The verb that opens the lab in a browser."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from quantcore.model.sentences import quoted

BESIDE = Path(__file__).resolve().parents[2]  # of a clone, or where a wheel is installed


def app(port: int = 8501, address: str = "127.0.0.1") -> NoReturn:
    """start the server of the pages; it takes the place of this process"""
    if importlib.util.find_spec("streamlit") is None:
        raise ValueError("the pages need streamlit; install quantization-lab[app]")
    _require_address(address, port)
    command = [sys.executable, "-m", "streamlit", "run", str(_server())]
    command += ["--server.address", address, "--server.port", str(port)]
    sys.stderr.flush()
    os.execv(sys.executable, command)


def _require_address(address: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"--port {str(port)[:20]} is no port; give a number of 1 to 65535, such as 8501")
    try:
        found = address and socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        found = None
    if not found:
        raise ValueError(
            f"--address {quoted(address)} is no address of a machine; give 127.0.0.1, or 0.0.0.0 for others in the room"
        )
    _require_free(address, port, found[0])


def _require_free(address: str, port: int, found: Any) -> None:
    """Raises: ValueError for a place of another machine, or one that is taken or not for this user."""
    family, kind, protocol, _, place = found
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does, just after another's end
        try:
            tried.bind(place)
        except OSError as error:
            raise ValueError(
                f"no server can listen on {quoted(address)}, port {port} ({error.strerror}); give another --port, or "
                "an --address of this machine, such as 127.0.0.1"
            ) from error


def _server() -> Path:
    """serve.py: beside the package in a clone, in quantization_lab where a wheel is installed."""
    for place in (BESIDE / "serve.py", BESIDE / "quantization_lab" / "serve.py"):
        if place.is_file() and (place.parent / "pages").is_dir():
            return place
    raise ValueError(
        f"there is no serve.py beside {BESIDE / 'quantcore'}; install quantization-lab[app] from its wheel"
    )
