"""A process that shares the tests, forked where pytest-xdist would start Python anew: torch, transformers, the package
and the pages are imported once for all of them (tests/preloaded.py).

    spec.python = command()        instead of sys.executable, for each process that execnet is to start
"""

import os
import shlex
import sys
from multiprocessing.connection import Connection

from tests.forked import ROOT, begin


def command() -> str:
    """What takes the options of a Python and does what they ask in a forked process."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests import forked_worker; forked_worker.ask()"
    return shlex.join([sys.executable, "-c", program])


def ask() -> None:
    """Stand between execnet and the forked process, which reads and writes where this one would."""
    ends = [Connection(os.dup(end), readable=end == 0, writable=end > 0) for end in range(3)]
    worker = begin(_serve, sys.argv[-1], dict(os.environ), *ends)
    for end in (*ends, sys.stdin, sys.stdout):
        end.close()
    worker.join()
    sys.exit(worker.exitcode)


def _serve(program: str, env: dict[str, str], *ends: Connection) -> None:
    """Be `python -c PROGRAM`."""
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: PTH123, SIM115
    os.environ.clear()
    os.environ.update(env)
    exec(program, {"__name__": "__main__"})
