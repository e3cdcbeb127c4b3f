"""Send each script and stylesheet compressed; compress each once, from its file, whatever browsers do.

A page with one chart is 7.6 MB of JavaScript and fonts, 2.7 MB with gzip. Thirty students who open it together would
take 230 MB through one Wi-Fi, because Streamlit sends its bundles uncompressed; and plotly.js alone costs 0.2 s to
compress, which Starlette's GZipMiddleware would pay for every browser. So the bytes are kept.

What can be kept is known before anybody asks: the files below a few folders, each under one URL. Any other spelling of
a URL goes to Streamlit, which answers it or not. A file is read and compressed by a thread that no visitor can cut
short. Names carry a hash or a version, so a browser may keep them for ever.
"""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
FOR_EVER = "public, immutable, max-age=31536000"
LEVEL = 6


class Scripts:
    """The scripts and stylesheets below `folders()` (URL -> folder), each compressed when it is first wanted."""

    def __init__(self, folders: Callable[[], Mapping[str, Path]]) -> None:
        self._folders = folders
        self._packed: dict[str, bytes] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Each file by its one URL."""
        return {
            f"{url}/{file.relative_to(folder).as_posix()}": file
            for url, folder in self._folders().items()
            for file in sorted(folder.rglob("*"))
            if file.suffix in TYPES and file.is_file()
        }

    def packed(self, url: str) -> bytes | None:
        """The file of a URL, compressed; None where the URL is no file's."""
        if (known := self._packed.get(url)) is not None or url not in self.files:
            return known
        with self._locks[url]:
            if url not in self._packed:
                self._packed[url] = gzip.compress(self.files[url].read_bytes(), LEVEL, mtime=0)
            return self._packed[url]

    def pack_all(self) -> None:
        """Compress what nobody has asked for yet: about 2 s of one core."""
        for url in self.files:
            self.packed(url)


class CompressedScripts:
    """ASGI middleware: answers from `scripts` whoever accepts gzip, and leaves all else to the app."""

    def __init__(self, app: ASGIApp, scripts: Scripts) -> None:
        self.app = app
        self._scripts = scripts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await asyncio.to_thread(self._scripts.packed, scope["path"]) if accepts_gzip(scope) else None
        if body is None:
            await self.app(scope, receive, send)
            return
        headers = {"content-encoding": "gzip", "cache-control": FOR_EVER, "vary": "Accept-Encoding"}
        kind = TYPES[Path(scope["path"]).suffix]
        await Response(body, media_type=kind, headers=headers)(scope, receive, send)


def accepts_gzip(scope: Scope) -> bool:
    """Whether this asks for a whole script or stylesheet and can unzip it."""
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].endswith(tuple(TYPES)):
        return False
    headers = Headers(scope=scope)
    return "range" not in headers and "gzip" in headers.get("accept-encoding", "")


def app_folders() -> dict[str, Path]:
    """Where the app's scripts lie, by the URL of each folder."""
    from streamlit import config, file_util

    from ui.components.bridge import served_folders  # imports plotly: not before somebody asks

    base = config.get_option("server.baseUrlPath").strip("/")
    root = f"/{base}" if base else ""
    own = {f"{root}/component/{name}": folder for name, folder in served_folders().items()}
    return {f"{root}/static": Path(file_util.get_static_dir()) / "static", **own}
