"""Whom the server answers, and what it lets a browser do with an answer.

- The Host that a browser names must be ours. Otherwise a page of any site could point its own name at this address
  (DNS rebinding) and read the lab through the visitor's browser. An address in figures cannot be rebound.
- A WebSocket or an upload that comes from another site's page is refused, before Streamlit looks up who we are.
- Streamlit's metrics and its API for programs are closed: nothing here needs them.
- Each answer carries the headers that forbid other sites to frame it, and the page to fetch or run what is not ours: an
  image that a text smuggled in is not fetched.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.classroom import VISITOR

CLOSED = ("/_stcore/metrics", "/_stcore/script-health-check", "/_stcore/agent", "/auth/", "/oauth2callback")
INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware around the whole app.

    hosts     the names under which this server is known, beside localhost and addresses in figures; `*.` before a name
              stands for all below it
    index     the page's HTML, whose own inline script may run
    count     whether each browser gets a cookie that tells it from others"""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], index: Path, count: bool) -> None:
        self.app = app
        self._hosts = hosts
        self._headers = {
            "content-security-policy": content_policy(index.read_bytes()),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
        }
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, self._marking(scope, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, words = refusal
            await PlainTextResponse(words, status)(scope, receive, self._marking(scope, send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence for a request that the app does not see."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_known(host, self._hosts):
            return 421, "This server is not known by that name; its owner can add it to server.allowedHosts.\n"
        asks = scope["type"] == "websocket" or scope["method"] not in READING
        if asks and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "This server answers its own pages only.\n"
        if any(door in scope["path"] for door in CLOSED):
            return 404, "Not found.\n"
        return None

    def _marking(self, scope: Scope, send: Send) -> Send:
        """`send`, with our headers on the answer's first message."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                page = headers.get("content-type", "").startswith("text/html")
                if self._count and page and visitor_of(scope) is None:
                    cookie = f"{VISITOR}={secrets.token_hex(16)}; Path=/; HttpOnly; SameSite=Strict"
                    headers.append("set-cookie", cookie)
            await send(message)

        return marked


def content_policy(index: bytes) -> str:
    """The Content-Security-Policy: all from this server alone; scripts also from the page's inline ones, by their hash,
    and from blobs, in which Streamlit wraps a component's loader."""
    digests = [base64.b64encode(hashlib.sha256(one).digest()).decode() for one in INLINE.findall(index)]
    inline = " ".join(f"'sha256-{one}'" for one in digests)
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' blob: {inline}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "media-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-src 'self'",
            "frame-ancestors 'self'",
        ]
    )


def is_known(host: str, names: Sequence[str]) -> bool:
    """Whether a Host header names this server: an address in figures, localhost, or one of `names`."""
    try:
        asked = urlsplit(f"//{host}")
        name, _ = (asked.hostname or "").rstrip("."), asked.port
    except ValueError:
        return False
    if not name or asked.username is not None or asked.path or asked.query or asked.fragment:
        return False
    if name == "localhost" or _is_address(name):
        return True
    return any(name == one or (one.startswith("*.") and name.endswith(one[1:])) for one in map(str.lower, names))


def own_names() -> list[str]:
    """What machines in the same network call this one."""
    name = socket.gethostname().lower()
    return [name, f"{name.partition('.')[0]}.local"]


def visitor_of(scope: Scope) -> str | None:
    """The cookie that tells this browser from others."""
    return cookie_parser(Headers(scope=scope).get("cookie", "")).get(VISITOR)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
