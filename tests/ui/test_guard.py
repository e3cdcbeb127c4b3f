"""Whom the server answers: names, origins, closed doors; and what it lets a browser do with an answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, PlainTextResponse

from ui.server.guard import Guard, content_policy, is_known, own_names

INDEX = b"<html><script>\n window.x = 1\n</script><script type='module' src='./a.js'></script></html>"
# printf '\n window.x = 1\n' | openssl dgst -sha256 -binary | base64
INLINE = "'sha256-OrwkBV5XwZ3s0HrLTeJ25nFtJC5IDBlOgbluErUukHw='"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_bytes(INDEX)
    return tmp_path / "index.html"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """A page under /, text elsewhere; a socket is accepted."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    kind = HTMLResponse if scope["path"] == "/" else PlainTextResponse
    await kind("the app's answer")(scope, receive, send)


def asked(guard: Guard, path: str = "/", method: str = "GET", kind: str = "http", **headers: str) -> dict[str, Any]:
    """The first message of the answer, its headers as text."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": f"{kind}.disconnect"}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": named}
    if kind == "websocket":
        del scope["method"]
    asyncio.run(guard(scope, receive, send))
    head: dict[str, Any] = sent[0]
    return {**head, "headers": {name.decode(): value.decode() for name, value in head.get("headers", [])}}


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8501", True),
        ("192.168.7.23:8501", True),
        ("[::1]:8501", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("lab.school.test", True),
        ("LAB.school.test.:80", True),
        ("a.b.lab.test", True),
        ("lab.test", False),
        ("evillab.test", False),
        ("evil.test", False),
        ("evil.test:8501", False),
        ("127.0.0.1.evil.test", False),
        ("localhost.evil.test", False),
        ("0x7f000001", False),
        ("127.1", False),
        ("me@127.0.0.1", False),
        ("127.0.0.1/x", False),
        ("127.0.0.1:99999", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_names_of_ours(host: str, known: bool) -> None:
    assert is_known(host, ["lab.school.test", "*.lab.test"]) is known


def test_machines_in_the_room_may_call_this_one_by_its_name() -> None:
    assert all(is_known(name, own_names()) for name in own_names())


@pytest.mark.parametrize("path", ["/", "/static/js/a.js", "/media/x", "/_stcore/health", "/_stcore/upload_file/a/b"])
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_a_rebound_name_gets_nothing(index: Path, path: str, method: str) -> None:
    answer = asked(Guard(app, [], index, False), path, method, host="evil.test:8501")
    assert answer["status"] == 421
    assert asked(Guard(app, [], index, False), kind="websocket", host="evil.test")["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("origin", "opens"),
    [
        (None, True),  # no browser
        ("http://192.168.7.23:8501", True),
        ("https://192.168.7.23:8501", True),  # a proxy speaks https for us
        ("http://192.168.7.23:9000", False),
        ("http://localhost:8501", False),
        ("http://evil.test", False),
        ("null", False),
    ],
)
def test_a_socket_or_an_upload_from_another_sites_page_is_refused(index: Path, origin: str | None, opens: bool) -> None:
    headers = {"host": "192.168.7.23:8501", **({} if origin is None else {"origin": origin})}
    guard = Guard(app, [], index, False)
    assert asked(guard, "/_stcore/stream", kind="websocket", **headers)["type"] == (
        "websocket.accept" if opens else "websocket.close"
    )
    assert asked(guard, "/_stcore/upload_file/a/b", "PUT", **headers)["status"] == (200 if opens else 403)
    assert asked(guard, "/static/js/a.js", **headers)["status"] == 200  # a module's own load says its origin too


@pytest.mark.parametrize(
    "path",
    [
        "/_stcore/metrics",
        "/_stcore/metrics/",
        "/base/_stcore/metrics",
        "/_stcore/script-health-check",
        "/_stcore/agent/mcp",
        "/auth/login",
    ],
)
def test_doors_that_nothing_here_needs_are_closed(index: Path, path: str) -> None:
    assert asked(Guard(app, [], index, False), path, host="localhost")["status"] == 404


def test_every_answer_forbids_what_is_not_ours(index: Path) -> None:
    headers = asked(Guard(app, [], index, False), host="localhost")["headers"]
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["script-src"] == f"'self' blob: {INLINE}"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'self'"
    assert policy["object-src"] == "'none'"
    assert "unsafe-eval" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    refused = asked(Guard(app, [], index, False), host="evil.test")["headers"]
    assert refused["content-security-policy"] == content_policy(INDEX)


def test_a_class_counts_browsers_by_a_random_cookie(index: Path) -> None:
    guard = Guard(app, [], index, True)
    cookies = {asked(guard, host="localhost")["headers"]["set-cookie"] for _ in range(3)}
    assert len(cookies) == 3
    for cookie in cookies:
        value, *rules = cookie.split("; ")
        assert len(value.removeprefix("lab_visitor=")) == 32
        assert rules == ["Path=/", "HttpOnly", "SameSite=Strict"]
    assert "set-cookie" not in asked(guard, host="localhost", cookie=f"a=b; {value}")["headers"]
    assert "set-cookie" not in asked(guard, "/media/x", host="localhost")["headers"]
    assert "set-cookie" not in asked(Guard(app, [], index, False), host="localhost")["headers"]
