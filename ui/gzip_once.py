"""Compress each script and stylesheet once per server, not once per browser.

A page with one chart is 7.6 MB of JavaScript and fonts, 2.7 MB with gzip. Thirty students who open it together would
take 230 MB through one Wi-Fi, because Streamlit sends its bundles uncompressed. Compressing costs 0.2 s of CPU for
plotly.js alone and would be paid thirty times; so the first answer is kept. The files carry a hash or a version in
their path: a browser may keep them for ever, the cache never goes stale, and it holds the app's own files only.
"""

import asyncio
import gzip
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEPT = ("/static/", "/component/")
COMPRESSED = ("text/javascript", "application/javascript", "text/css")
FOR_EVER = "public, immutable, max-age=31536000"


@dataclass(frozen=True)
class Answer:
    """A finished response: its first ASGI message and its whole body."""

    start: Message
    body: bytes

    async def send(self, send: Send) -> None:
        await send(self.start)
        await send({"type": "http.response.body", "body": self.body})


class GzipOnce:
    """ASGI middleware: gzip for .js and .css, kept in memory by path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.answers: dict[str, Answer] = {}
        self.locks: dict[str, asyncio.Lock] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not wants_gzip(scope):
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        async with self.locks.setdefault(path, asyncio.Lock()):
            answer = self.answers.get(path) or await self.fetch(scope, receive)
        if path not in self.answers:  # not ours to keep: a missing file, or a page under a name that ends in .js
            self.locks.pop(path, None)
        await answer.send(send)

    async def fetch(self, scope: Scope, receive: Receive) -> Answer:
        """The app's own answer; compressed and kept if it is a script or a stylesheet."""
        answer = await collect(self.app, scope, receive)
        headers = Headers(raw=answer.start["headers"])
        kind = headers.get("content-type", "").partition(";")[0]
        if answer.start["status"] != 200 or kind not in COMPRESSED or "content-encoding" in headers:
            return answer
        answer = await asyncio.to_thread(compress, answer)
        self.answers[scope["path"]] = answer
        return answer


def wants_gzip(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].endswith((".js", ".css")):
        return False
    headers = Headers(scope=scope)
    plain = "range" not in headers and "if-none-match" not in headers and "if-modified-since" not in headers
    return plain and any(part in scope["path"] for part in KEPT) and "gzip" in headers.get("accept-encoding", "")


async def collect(app: ASGIApp, scope: Scope, receive: Receive) -> Answer:
    """Let the app answer as if the browser could not unzip, and hold the answer back."""
    asked = MutableHeaders(raw=list(scope["headers"]))
    asked["accept-encoding"] = "identity"
    messages: list[Message] = []

    async def hold(message: Message) -> None:
        messages.append(message)

    await app({**scope, "headers": asked.raw}, receive, hold)
    start = next(message for message in messages if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.response.body")
    return Answer(start, body)


def compress(answer: Answer) -> Answer:
    body = gzip.compress(answer.body, compresslevel=6, mtime=0)
    headers = MutableHeaders(raw=list(answer.start["headers"]))
    headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(body))
    headers["cache-control"] = FOR_EVER
    headers.add_vary_header("Accept-Encoding")
    for name in ("etag", "last-modified", "accept-ranges", "set-cookie"):  # true of one file or one visitor only
        if name in headers:
            del headers[name]
    return Answer({**answer.start, "headers": headers.raw}, body)
