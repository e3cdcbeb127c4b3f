"""In the place of subprocess.Popen for a `BoundedProcess`: the same `serve`, limits and signals in a process that is
forked (tests/forked.py), where its program would import for a second what is here already."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import IO, Any

from quantcore.model import bounded_process
from tests.forked import begin


class ForkedChild:
    def __init__(self, command: list[str], stderr: IO[bytes], env: Mapping[str, str], **_: object) -> None:
        program = command[command.index(bounded_process.__file__) + 1 :]
        questions, to = multiprocessing.Pipe(duplex=False)
        answers, replies = multiprocessing.Pipe(duplex=False)
        errors = Connection(os.dup(stderr.fileno()), readable=False)
        ends, here = (questions, replies, errors), os.getcwd()  # noqa: PTH109
        self._process = begin(_serve, program, dict(env), here, *ends, daemon=True)
        self.stdin, self.stdout = os.fdopen(os.dup(to.fileno()), "wb"), os.fdopen(os.dup(answers.fileno()), "rb")
        for end in (*ends, to, answers):
            end.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a bounded process", timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


class Subprocess:
    """What `bounded_process` asks of the module."""

    PIPE, TimeoutExpired, Popen = subprocess.PIPE, subprocess.TimeoutExpired, ForkedChild


def _serve(program: list[str], env: dict[str, str], cwd: str, *ends: Any) -> None:
    """Be the child: what it reads, what it answers and its words on stderr are `ends`."""
    import torch

    os.setsid()
    os.chdir(cwd)
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    sys.argv = [bounded_process.__file__, *program, "with-torch"]  # torch is imported, and cannot be kept out any more
    bounded_process.serve(program[0])
