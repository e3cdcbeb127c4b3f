"""Who runs which test where several processes share them: a file stays in one process, as do
what its fixtures make, and so do all tests in a browser, of which there is one at a time.

pytest-xdist 3.8 has marks for such groups, which do nothing with pytest 9.2; so its scheduler is told.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.conftest import BROWSER


class OneBrowser(LoadFileScheduling):
    """Hands out whole files, and all that drive a browser as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if BROWSER in nodeid else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneBrowser:
    config.option.loadscopereorder = False  # the longest first, as conftest.py sorts them
    return OneBrowser(config, log)
