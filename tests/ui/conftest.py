"""What tests of pages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apptest_helpers import new_server
from ui import kept


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server of its own, whose jobs end with the test."""
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()
    yield
    for job in kept.jobs().unfinished():
        job.end()
        job.ended.wait(60)
