"""A long duel in real browsers: progress, a reload in the middle, its end; two browsers, one job, one cancel."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.browser_fixtures import WAIT_MS, wait_drawn, wait_until

pytestmark = pytest.mark.browser

LONG = ("W8A8", "W4A16", "W3A16")  # some seconds on 2,560 tokens
BAR = '[data-testid="stProgress"]'


def link(url: str, tokens: int, *schemes: str) -> str:
    return f"{url}/Scheme_duel?tokens={tokens}&duel={quote(chr(10).join(schemes))}"


def share(page: Any) -> int:
    """The percentage that the first job's line says."""
    wait_until(page, f"/: \\d+%/.test(document.querySelector('{BAR}')?.innerText ?? '')")
    return int(page.locator(BAR).first.inner_text().split("%")[0].split()[-1])


def test_a_reload_in_the_middle_neither_ends_nor_doubles_a_duel(page: Any, server_url: str) -> None:
    page.goto(link(server_url, 2560, *LONG))
    page.wait_for_selector(BAR)
    wait_until(page, f"Number((document.querySelector('{BAR}')?.innerText.match(/: (\\d+)%/) ?? [0, 0])[1]) >= 20")
    before = share(page)
    page.reload()
    page.wait_for_selector(BAR)
    assert share(page) >= before  # the job went on, and did not begin anew
    assert "in line" not in page.locator(BAR).first.inner_text()
    wait_drawn(page, "pareto")
    wait_drawn(page, "along")
    assert page.get_by_text("is closest to the float model").count() == 1
    page.goto(link(server_url, 2560, *LONG))  # from the store
    wait_drawn(page, "pareto")
    assert page.locator(".stException").count() == 0


def test_two_browsers_share_a_job_and_its_cancel(page: Any, browser_context: Any, server_url: str) -> None:
    address = link(server_url, 16384, "W2A16", "W3A16", "W5A16", "W6A16")
    page.goto(address)
    page.wait_for_selector(BAR)
    share(page)  # it runs: what was in line before it is done
    other = browser_context.browser.new_context()
    other.set_default_timeout(WAIT_MS)
    try:
        second = other.new_page()
        second.goto(address)
        second.wait_for_selector(BAR)
        assert "in line" not in second.locator(BAR).first.inner_text()
        before, here, after = share(second), share(page), share(second)
        assert before - 15 <= here <= after + 15  # one job: one progress, shown in steps
        page.get_by_role("button", name="Cancel").click()
        for tab in (page, second):
            tab.wait_for_selector("text=cancelled. Nothing was kept of it.")
            assert tab.get_by_role("button", name="Run it again").count() == 1
    finally:
        other.close()
