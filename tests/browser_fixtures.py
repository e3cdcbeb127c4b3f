"""A real browser on a real server: fixtures for the tests marked `browser`.

List this module in `pytest_plugins`. Chromium is found through the variable CHROMIUM or on the PATH; where there is
none the tests are skipped with a sentence. Every server runs on a free port with a home folder of its own, so that
nothing of the user's settings is read or written, and only the processes started here are ended.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.forked import ROOT, Forked, start

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SHELL = "chromium-headless-shell"  # no windows, whose own pages take half a second of the processor for each tab
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
START_S = 240  # limits, not waits: a busy machine draws WebGL in software
WAIT_MS = 240_000
WINDOW = {"width": 1440, "height": 1000}


@contextmanager
def serving(script: Path, home: Path, **variables: str) -> Iterator[str]:
    """Run `streamlit run script` with environment `variables` until the block ends; the address to visit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "streamlit", "run", str(script), "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}"]
    log = home / f"{script.stem}.log"
    own = {**os.environ, "HOME": str(home), "QUANT_HOME": str(home / "results"), **variables}
    process = start(*command, out=log, err=log, env=own)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_healthy(url, process, log)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _wait_healthy(url: str, process: Forked, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError(f"the server at {url} was not healthy within {START_S} s; it wrote:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole app, as `make run` starts it."""
    with serving(ROOT / "serve.py", tmp_path_factory.mktemp("home")) as url:
        yield url


@pytest.fixture(scope="session")
def browser_context() -> Any:
    """One Chromium for all tests that drive one: the app's JavaScript is fetched and compiled once."""
    named = os.environ.get("CHROMIUM")
    path = named or next(filter(None, map(shutil.which, (SHELL, *NAMES))), None)
    if path is None:
        pytest.skip("no Chromium found; install one or name its program in the variable CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = _open.enter_context(sync_api.sync_playwright()).chromium.launch(executable_path=path, args=FLAGS)
    _open.callback(chromium.close)
    context = chromium.new_context(viewport=WINDOW, color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(WAIT_MS)
    return context


_open = ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """The browser closes behind its last test (conftest.py sorts them together): while Playwright is open its event
    loop runs, and other tests could not use asyncio.run."""
    yield
    if nextitem is None or nextitem.get_closest_marker("browser") is None:
        _open.close()


@pytest.fixture(scope="session")
def tab(browser_context: Any) -> Any:
    """The one tab. Who opens a page where another of the app's is finds the app's JavaScript compiled and in memory,
    which is a third of what a page costs; so a test's last page stays until the next one opens its own."""
    return browser_context.new_page()


@pytest.fixture
def page(tab: Any) -> Iterator[Any]:
    """The tab of a new visitor, 1440 x 1000, light, without what moves to please; the test fails if any script on its
    page raised."""
    raised: list[str] = []

    def keep(error: object) -> None:
        raised.append(str(error))

    tab.context.clear_cookies()
    tab.on("pageerror", keep)
    yield tab
    tab.remove_listener("pageerror", keep)
    tab.unroute_all()
    tab.mouse.move(0, 0)
    if tab.viewport_size != WINDOW:
        tab.set_viewport_size(WINDOW)
    tab.emulate_media(color_scheme="light", reduced_motion="reduce")
    assert raised == []


@contextmanager
def watched(page: Any, *servers: str) -> Iterator[list[str]]:
    """What the page asks of others than these servers until the block ends, and what its policy has to forbid: a list
    that fills."""
    found: list[str] = []
    ours = (*servers, *(one.replace("http", "ws", 1) for one in servers), "data:", "blob:")

    def asked(request: Any) -> None:
        found.extend([] if request.url.startswith(ours) else [request.url])

    def said(message: Any) -> None:
        found.extend([message.text] if "Content Security Policy" in message.text else [])

    page.on("request", asked)
    page.on("console", said)
    yield found
    page.remove_listener("request", asked)
    page.remove_listener("console", said)


def wait_until(page: Any, script: str, arg: Any = None) -> None:
    """Wait until `script`, a JavaScript expression or function, is true in the page.

    It is asked from outside. Playwright's own wait_for_function evaluates text inside the page, which the app's
    Content-Security-Policy forbids.
    """
    end, pause_ms = time.monotonic() + WAIT_MS / 1000, 50.0
    while not _evaluate(page, script, arg):
        if time.monotonic() > end:
            raise TimeoutError(f"after {WAIT_MS / 1000:.0f} s still not true at {page.url}: {script} of {arg!r}")
        page.wait_for_timeout(pause_ms)
        pause_ms = min(1.2 * pause_ms, 250.0)  # to ask costs what the page needs to go on


def wait_link(page: Any, part: str) -> None:
    """Wait until the page's link says `part`, such as "bits=3".

    The server sends the new picture and the new link one after the other, and Playwright's own `page.url` follows the
    address bar later still.
    """
    wait_until(page, "part => location.search.includes(part)", part)


def wait_words(page: Any, words: str) -> None:
    """Wait until the page says `words`."""
    wait_until(page, "words => document.body.innerText.includes(words)", words)


def _evaluate(page: Any, script: str, arg: Any) -> Any:
    try:
        return page.evaluate(script, arg)
    except Exception as error:
        if "Execution context was destroyed" in str(error):  # the page is being left for another
            return False
        raise


def wait_drawn(page: Any, key: str, after: int = 0) -> int:
    """Wait until the chart `key` has been drawn more than `after` times; how often it has been drawn by then.

    before = wait_drawn(page, "weights")
    page.keyboard.press("ArrowRight")
    wait_drawn(page, "weights", after=before)
    """
    chart = f'.lab-chart[data-key="{key}"]'
    wait_until(page, "([chart, n]) => Number(document.querySelector(chart)?.dataset.drawn) > n", [chart, after])
    return int(page.locator(chart).get_attribute("data-drawn"))
