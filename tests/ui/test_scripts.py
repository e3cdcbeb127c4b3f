"""Scripts and stylesheets: compressed once, from their files, whole for whoever asks, kept under one URL each."""

import asyncio
import gzip
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from ui.server import scripts as compressing
from ui.server.scripts import FOR_EVER, CompressedScripts, Scripts, app_folders

TEXT = b"const x = 1; " * 50 + b"// end"
Answer = tuple[dict[bytes, bytes], bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "a.js").write_bytes(TEXT)
    (tmp_path / "a.css").write_bytes(b"a { color: red }")
    (tmp_path / "page.html").write_bytes(b"<p>")
    return tmp_path


def served(folder: Path) -> CompressedScripts:
    """The middleware before an app that says what it was asked for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse(f"the app: {scope['path']}")(scope, receive, send)

    return CompressedScripts(app, Scripts(lambda: {"/static": folder}))


async def ask(app: CompressedScripts, path: str, accepts: str = "gzip, br", method: str = "GET", **more: str) -> Answer:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    headers = [(b"accept-encoding", accepts.encode()), *((k.encode(), v.encode()) for k, v in more.items())]
    await app({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
    return dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a compression."""
    done: list[int] = []
    compress: Callable[..., bytes] = gzip.compress
    monkeypatch.setattr(
        compressing.gzip, "compress", lambda data, *a, **k: done.append(len(data)) or compress(data, *a, **k)
    )
    return done


def test_thirty_browsers_cost_one_compression(folder: Path, compressions: list[int]) -> None:
    app = served(folder)

    async def several() -> list[Answer]:
        return await asyncio.gather(*(ask(app, "/static/js/a.js") for _ in range(30)))

    for headers, body in asyncio.run(several()):
        assert headers[b"content-encoding"] == b"gzip"
        assert headers[b"cache-control"] == FOR_EVER.encode()
        assert headers[b"content-length"] == str(len(body)).encode()
        assert headers[b"content-type"] == b"text/javascript; charset=utf-8"
        assert headers[b"vary"] == b"Accept-Encoding"
        assert gzip.decompress(body) == TEXT
    assert compressions == [len(TEXT)]
    headers, body = asyncio.run(ask(app, "/static/a.css"))
    assert (headers[b"content-type"], gzip.decompress(body)) == (b"text/css; charset=utf-8", b"a { color: red }")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/static/js/a.js", {"accepts": "identity"}),
        ("/static/js/a.js", {"range": "bytes=0-9"}),
        ("/static/js/a.js", {"method": "HEAD"}),
        ("/static/js/gone.js", {}),
        ("/static/page.html", {}),
        ("/static//js/a.js", {}),
        ("/static/js/../js/a.js", {}),
        ("/static/js/./a.js", {}),
        ("/STATIC/js/a.js", {}),
        ("//static/js/a.js", {}),
        ("/static/js/%61.js", {}),
        ("/app/static/js/a.js", {}),
    ],
)
def test_whatever_else_is_the_apps_and_is_not_kept(
    folder: Path, compressions: list[int], path: str, asked: dict[str, str]
) -> None:
    headers, _ = asyncio.run(ask(served(folder), path, **asked))
    assert b"content-encoding" not in headers
    assert compressions == []


def test_one_file_is_kept_once_however_often_its_url_is_spelled(folder: Path, compressions: list[int]) -> None:
    app = served(folder)
    for spelling in range(150):
        asyncio.run(ask(app, f"/static/{'x/../' * spelling}js/a.js"))
    assert compressions == [len(TEXT)]


def test_a_visitor_who_leaves_cuts_nothing_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is cancelled while its file is being compressed; the next one gets the whole."""
    gate, begun = threading.Event(), threading.Event()
    compress: Callable[..., bytes] = gzip.compress

    def slow(*asked: Any, **more: Any) -> bytes:
        begun.set()
        assert gate.wait(10)
        return compress(*asked, **more)

    monkeypatch.setattr(compressing.gzip, "compress", slow)
    app = served(folder)

    async def leave_and_ask() -> Answer:
        first = asyncio.create_task(ask(app, "/static/js/a.js"))
        await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        gate.set()
        return await ask(app, "/static/js/a.js")

    assert gzip.decompress(asyncio.run(leave_and_ask())[1]) == TEXT


def test_the_apps_own_scripts_are_known_before_anybody_asks() -> None:
    files = Scripts(app_folders).files
    assert any(url.startswith("/static/js/index.") for url in files)
    assert [
        url for url in files if url.endswith("/chart.js") and url.startswith("/component/ui.components.bridge.web-")
    ]
    assert [url for url in files if url.endswith("/plotly.min.js")]
    assert all(path.is_file() for path in files.values())
