"""A server as its user starts it, for the benchmarks: a new Python that imports everything itself. The tests' servers
are forked from a process that has imported it all (tests/forked.py), which is no start that a user has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 240.0  # a limit, not a wait


@contextmanager
def serving(home: Path, **variables: str) -> Iterator[str]:
    """Run `streamlit run serve.py` with environment `variables` until the block ends; the address to visit. Its home is
    `home`: it reads and writes nothing of the user's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "serve.py", "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}"]
    own = {**os.environ, "HOME": str(home), "QUANT_HOME": str(home / "results"), **variables}
    log = home / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=out, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_S
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server at {url} did not start; it wrote:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pid_of(url: str) -> int:
    """The process that listens on the address. Raises: RuntimeError where none does."""
    port = url.rsplit(":", 1)[1]
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        if f"--server.port={port}".encode() in status.read_bytes().split(b"\0"):
            return int(status.parent.name)
    raise RuntimeError(f"no process serves {url}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
