"""The server as it runs: scripts stay whole whatever browsers do, a flood of jobs delays nobody, what a visitor brought
goes, and a stranger's address is refused."""

import asyncio
import gzip
import http.client
import json
import os
import random
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.message import Message
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests import forked
from tests.browser_fixtures import ROOT, serving
from tests.visits import Visitor, visit
from ui.server.scripts import Scripts, app_folders

pytestmark = pytest.mark.server

WORD = "the teacher's word"
FLOOD = 5  # jobs that a visitor, or several, ask for
DONE = "On the text itself"  # the heading under a whole duel
SCHEMES = [f"w:int{bits}/{grain}" for bits in range(2, 9) for grain in ("tensor", "channel", "group32", "group128")]


@pytest.fixture(scope="module")
def class_url(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in class mode, with the reference model and the tiny one."""
    variables = {"QUANT_CLASS": f"reference,{tiny_model_dir}", "QUANT_TEACHER": WORD}
    with serving(ROOT / "serve.py", tmp_path_factory.mktemp("class"), **variables) as url:
        yield url


def drop(url: str, path: str, dice: random.Random) -> None:
    """Ask for a file, take some of it, and hang up."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as line:
        ask = f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        whole = dice.random() < 0.8
        line.sendall(ask.encode()[: len(ask) if whole else dice.randrange(len(ask))])
        left = dice.choice([0, 0, 1, 200, 10_000, 300_000]) if whole else 0
        while left > 0 and (got := line.recv(min(left, 65536))):
            left -= len(got)
        if dice.random() < 0.5:  # at once, with what was not read still on its way
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def answer(url: str, path: str, **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body of a GET."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        got = connection.getresponse()
        return got.status, got.headers, got.read()


def fetched(url: str, path: str) -> bytes:
    """The whole file, as a browser unpacks it."""
    status, headers, body = answer(url, path, Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"], headers["X-Content-Type-Options"]) == (200, "gzip", "nosniff")
    return gzip.decompress(body)


def test_every_script_is_whole_after_connections_were_dropped(class_url: str) -> None:
    """All of them, at random points, several at a time: the next visitor gets each file as it lies on the disk."""
    files, dice = Scripts(app_folders).files, random.Random(14)
    assert len(files) > 300
    dropped = [(path, dice.random()) for path in files]
    dice.shuffle(dropped)
    with ThreadPoolExecutor(16) as several:
        list(several.map(lambda one: drop(class_url, one[0], random.Random(one[1])), dropped))
        bodies = list(several.map(lambda path: fetched(class_url, path), files))
    for (path, file), body in zip(files.items(), bodies, strict=True):
        assert body == file.read_bytes(), path


async def ask(tab: Visitor, number: int, tokens: int = 16384) -> None:
    """Open a duel that nobody else has asked for; see that it runs or is in line."""
    schemes = random.Random(number).sample(SCHEMES, 2)
    before = len(tab.words)
    await tab.open("Scheme_duel", f"tokens={tokens}&duel={quote(chr(10).join(schemes))}")
    said = "\n".join(tab.words[before:])
    assert re.search(r"in line on cpu|tokens: \d+%|wait in line already", said), said[-500:]


async def ask_and_leave(url: str, number: int) -> None:
    async with visit(url) as tab:
        await ask(tab, number)


async def bobs_duel(url: str, model: str, schemes: str) -> tuple[int, bool]:
    """Another visitor's duel, which takes a second or two: its last place in line, and whether it was done."""
    async with visit(url) as tab:
        await tab.open("Scheme_duel", f"model={quote(model)}&duel={quote(schemes)}")
        done = await tab.follow(300.0, until=DONE)
        return max(
            (int(one) for text in tab.words for one in re.findall(r"number (\d+) in line", text)), default=1
        ), done


def nobody_waits(url: str) -> bool:
    """Whether the teacher's page says so within a minute and a half."""

    async def words() -> list[str]:
        async with visit(url) as tab:
            await tab.open("The_line", f"teacher={quote(WORD)}")
            return tab.words

    end = time.monotonic() + 90.0
    while not (found := "Nobody waits." in asyncio.run(words())) and time.monotonic() < end:
        time.sleep(1.0)
    return found


@pytest.mark.parametrize("tabs", ["one after another", "all at once"])
def test_many_jobs_asked_for_and_left_delay_another_visitor_by_two_at_most(
    class_url: str, tiny_model_dir: Path, tabs: str
) -> None:
    """And they go with the last who waits for them: to do them all would take minutes."""

    async def flood_and_ask() -> tuple[int, bool]:
        if tabs == "all at once":
            await asyncio.gather(*(ask_and_leave(class_url, number) for number in range(FLOOD)))
        else:
            for number in range(FLOOD, 2 * FLOOD):
                await ask_and_leave(class_url, number)
        return await bobs_duel(class_url, tiny_model_dir.name, f"w:int8/channel\nw:int{4 + len(tabs) % 4}/channel")

    place, done = asyncio.run(flood_and_ask())
    assert done
    assert place <= 3  # two before it at most
    assert nobody_waits(class_url)


def test_a_tab_that_asks_for_many_delays_another_visitor_by_two_at_most(class_url: str, tiny_model_dir: Path) -> None:
    """It goes from duel to duel without waiting for any, and stays open."""

    async def flood_and_ask() -> tuple[int, bool]:
        async with visit(class_url, cookie="lab_visitor=ann") as tab:
            for number in range(FLOOD):
                await ask(tab, 1000 + number, tokens=2560)
            return await bobs_duel(class_url, tiny_model_dir.name, "w:int6/channel\nw:int3/channel")

    place, done = asyncio.run(flood_and_ask())
    assert done
    assert place <= 3


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/agent/mcp", "/_stcore/script-health-check"])
def test_closed_doors(class_url: str, path: str) -> None:
    assert answer(class_url, path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/static/js/x.js", "/media/x", "/_stcore/health", "/_stcore/stream"])
def test_a_name_that_is_not_ours_is_refused(class_url: str, path: str) -> None:
    assert answer(class_url, path, Host="rebound.test")[0] == 421


def test_other_machines_are_not_listened_to_without_a_class() -> None:
    command = ["-m", "streamlit", "run", str(ROOT / "serve.py"), "--server.headless=true"]
    done = forked.run(*command, "--server.address=0.0.0.0", "--server.port=0", timeout=120)
    assert done.returncode == 2
    assert "this server would listen on 0.0.0.0, and whoever reaches it could load any model" in done.stderr


def test_a_visitors_text_leaves_the_memory_with_the_session(tmp_path: Path) -> None:
    """Also where a model was loaded meanwhile, which takes all that is there out of the collector's rounds."""
    own = {**os.environ, "QUANT_HOME": str(tmp_path)}
    done = forked.run(str(ROOT / "tests" / "left_behind.py"), env=own, timeout=420)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"before": ["LoadedText", "Visit"], "after": []}
