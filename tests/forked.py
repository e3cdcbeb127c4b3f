"""Python commands in processes of their own, begun in a moment: each is forked from one that has imported torch,
transformers, the package and the pages (tests/fork_server.py), where a new process would take seconds for that.

    done = run("-m", "quantcore", "schemes")           as subprocess.run([sys.executable, ...], capture_output=True)
    process = start("-m", "streamlit", "run", "serve.py", out=log, err=log)
    process.wait(10)                                   as a subprocess.Popen; it ends with who began it

What the environment decides while huggingface_hub is imported (HF_HOME, HF_ENDPOINT) holds here too. Not for what it
decides while others are (TRITON_INTERPRET, the allocator's limits), nor for a test of what is imported: those start
Python anew.
"""

import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

ROOT = Path(__file__).parents[1]
NUMBER = struct.Struct("<i")  # what the server says: a process's id, later its exit code
server: str | None = None  # the address of the process that forks, once there is one


def address() -> str:
    """Of the process that forks; begun at the first call, and ended with this one. It imports for some seconds."""
    global server
    if server is None:
        folder = tempfile.TemporaryDirectory(prefix="fork-")
        server = f"{folder.name}/asked"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(server)
            listener.listen(64)
            command = [sys.executable, "-m", "tests.fork_server", server, str(listener.fileno())]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        atexit.register(_end, process, folder)
    return server


def _end(process: "subprocess.Popen[bytes]", folder: "tempfile.TemporaryDirectory[str]") -> None:
    process.kill()
    process.communicate()
    folder.cleanup()


class Forked:
    """`python COMMAND` as a forked process, which reads and writes at `ends`, three file descriptors."""

    def __init__(
        self, command: Sequence[str], ends: Sequence[int], env: Mapping[str, str], cwd: Path | str = ROOT
    ) -> None:
        self.command = command
        self.returncode: int | None = None
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(address())
        socket.send_fds(self._line, [b"."], ends)
        self._line.sendall(json.dumps({"command": command, "env": dict(env), "cwd": str(cwd)}).encode() + b"\n")
        if (pid := self._hear()) is None:
            raise RuntimeError("the process that others are forked from has ended; what it wrote says why")
        self.pid = pid

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; minus the signal that ended it. Raises: subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.command, timeout or 0.0)
            said = self._hear()
            self.returncode = -signal.SIGKILL if said is None else said  # None: it went with the one that forked it
            self._line.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def _send(self, what: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, what)

    def _hear(self) -> int | None:
        """The next number; None where nobody says one any more."""
        told = self._line.recv(NUMBER.size, socket.MSG_WAITALL)
        return int(NUMBER.unpack(told)[0]) if told else None

    def __del__(self) -> None:
        self._line.close()


def start(
    *command: str,
    out: Path,
    err: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Forked:
    """Begin `python COMMAND`, which writes to the files `out` and `err`, behind what they hold."""
    with Path(os.devnull).open("rb") as nothing, out.open("ab") as said, err.open("ab") as told:
        ends = [one.fileno() for one in (nothing, said, told)]
        return Forked(command, ends, os.environ if env is None else env, cwd)


def run(
    *command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 600
) -> "subprocess.CompletedProcess[str]":
    """Run `python COMMAND` to its end: its exit code, and what it wrote.

    Raises: subprocess.TimeoutExpired where it takes longer than `timeout` seconds; it is killed then."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start(*command, out=out, err=err, env=env, cwd=cwd)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise subprocess.TimeoutExpired(command, timeout, out.read_text(), err.read_text()) from None
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


def instead(command: list[str], cwd: Path, env: Mapping[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
    """In the place of subprocess.run, for a module whose processes are Python's."""
    return run(*command[1:], cwd=cwd, env=env)


class Bounded(Forked):
    """In the place of subprocess.Popen, for a `BoundedProcess`: the same program, limits and signals. Torch is imported
    there already, and cannot be kept out any more."""

    def __init__(self, command: list[str], stderr: IO[bytes], env: Mapping[str, str], **_: object) -> None:
        questions, to = os.pipe()
        answers, replies = os.pipe()
        self.stdin, self.stdout = os.fdopen(to, "wb"), os.fdopen(answers, "rb")
        program = command[command.index("-P") + 1 :]
        super().__init__([*program, "with-torch"], (questions, replies, stderr.fileno()), env, Path.cwd())
        os.close(questions)
        os.close(replies)


POPEN: Any = SimpleNamespace(PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired, Popen=Bounded)
