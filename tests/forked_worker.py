"""A process that shares the tests, forked where pytest-xdist would start Python anew: torch, transformers, the package
and the pages are imported once for all of them (tests/fork_server.py).

    spec.python = command()        instead of sys.executable, for each process that execnet is to start
"""

import os
import shlex
import sys
from pathlib import Path

from tests import forked


def command() -> str:
    """What takes the options of a Python and does what they ask in a forked process."""
    program = f"""
import sys; sys.path.insert(0, {str(forked.ROOT)!r})
from tests import forked_worker; forked_worker.ask({forked.address()!r})
"""
    return shlex.join([sys.executable, "-c", program])


def ask(address: str) -> None:
    """Stand between execnet and the forked process, which reads and writes where this one would."""
    forked.server = address
    sys.exit(forked.Forked(sys.argv[-2:], (0, 1, 2), os.environ, Path.cwd()).wait())
