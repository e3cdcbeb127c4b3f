"""A hub on this machine: folders served as huggingface_hub asks for them, so that a download is a real one.

    with fake_hub({"tiny/model": folder}, {"tiny/data": folder}) as url: ...      environment: HF_ENDPOINT=url

Besides the folders it knows `tiny/gated`, whose files ask for a login, and `tiny/broken`, whose weights break off.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


@contextmanager
def fake_hub(models: dict[str, Path], data_sets: dict[str, Path] | None = None) -> Iterator[str]:
    """Serve until the block ends; yields the address."""
    repos = {("models", name): folder for name, folder in models.items()}
    repos |= {("datasets", name): folder for name, folder in (data_sets or {}).items()}

    class Handler(_Handler):
        known = repos

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    known: dict[tuple[str, str], Path]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api" and len(parts) >= 4:
            return self._listing(parts[1], "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        return self._file(kind, "/".join(parts[:2]), "/".join(parts[4:]))

    def _listing(self, kind: str, name: str, revision: str) -> None:
        folder = self.known.get((kind, name))
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
        siblings = [{"rfilename": str(one.relative_to(folder)), "size": one.stat().st_size} for one in files]
        content = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}).encode()
        return self._send(content, {"Content-Type": "application/json"})

    def _file(self, kind: str, name: str, file: str) -> None:
        if name == "tiny/gated":
            return self._refuse(403, "GatedRepo")
        path = self.known.get((kind, name), Path("/nowhere")) / file
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        cut = name == "tiny/broken" and file.endswith(".safetensors")
        return self._send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, len(content) // 2 if cut else None)

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code}, status=status)

    def _send(self, content: bytes, headers: dict[str, str], cut: int | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
