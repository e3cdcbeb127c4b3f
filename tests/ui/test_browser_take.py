"""A checkpoint in a real browser: one click, its end, and the download that holds it."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.browser_fixtures import wait_drawn

pytestmark = pytest.mark.browser


def test_the_reference_model_leaves_as_w4a16(page: Any, server_url: str, tmp_path: Path) -> None:
    page.goto(f"{server_url}/Take_it_with_you?scheme=W4A16")
    wait_drawn(page, "bytes")
    page.get_by_text("quantization_stage").wait_for()
    page.get_by_role("button", name="Write the checkpoint").click()
    link = page.get_by_role("button", name="Download it as one .zip")
    link.wait_for()
    with page.expect_download() as found:
        link.click()
    found.value.save_as(tmp_path / "checkpoint.zip")
    with zipfile.ZipFile(tmp_path / "checkpoint.zip") as archive:
        assert archive.testzip() is None
        names = {Path(name).name for name in archive.namelist()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "export.json"} <= names
    assert page.locator(".stException").count() == 0
