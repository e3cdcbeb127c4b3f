"""Who runs which test where several processes share them: a file stays in one process, as do
what its fixtures make, and so do all tests in a browser, of which there is one at a time.

`-n auto` takes a process a core and one more, for the tests in a browser, which mostly wait; eight at most. All are
forked (tests/forked_worker.py).

pytest-xdist 3.8 has marks for such groups, which do nothing with pytest 9.2; so its scheduler is told.
"""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests import forked_worker
from tests.conftest import BROWSER


class OneBrowser(LoadFileScheduling):
    """Hands out whole files, and all that drive a browser as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if BROWSER in nodeid else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """The processes share the cores too: more threads than cores wait for each other."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(specs)))
    for spec in specs:
        spec.python = forked_worker.command()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return min(8, 1 + (os.cpu_count() or 1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneBrowser:
    config.option.loadscopereorder = False  # the longest first, as conftest.py sorts them
    return OneBrowser(config, log)
