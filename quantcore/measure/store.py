"""Results that are kept: one SQLite file, one row a measured question, so that the same question is answered at once.

A question says everything that the figures depend on: what was measured, scheme text, model and the hash of its
contents, the hash of the tokens, device, versions. The file lies in the folder that QUANT_HOME names, else in the
user's data folder. It is in write-ahead mode: two servers may share it. A file that is damaged is set aside under
another name and a new one begun; a file that cannot be written costs only the keeping. Neither is ever an error of the
work itself: `notice` says what happened.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from quantcore.model.weight_files import HASHERS

T = TypeVar("T")
FILE = "results.sqlite"
TABLE = """CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, made TEXT, kind TEXT, scheme TEXT, model TEXT, model_hash TEXT, text_hash TEXT, device TEXT,
    versions TEXT, figures TEXT, arrays BLOB)"""
BUSY_S = 5.0
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
HASH_BYTES = 2**24


class HasTensors(Protocol):
    """A module, or a model that stays in its files."""

    def state_dict(self) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Question:
    """What was asked: `kind` is what is measured, `scheme` the text of a scheme or plan."""

    kind: str
    scheme: str
    model: str
    model_hash: str
    text_hash: str
    device: str
    versions: Mapping[str, str]

    @property
    def key(self) -> str:
        """Of all but the model's name: who calls the same contents otherwise finds the same answer."""
        asked = {**asdict(self), "model": None}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """The figures (JSON values), the arrays, and when they were made (UTC, ISO 8601)."""

    figures: dict[str, Any]
    arrays: dict[str, np.ndarray]
    made: str


class Row(NamedTuple):
    """One kept answer as the file has it; `versions` and `figures` are JSON."""

    key: str
    made: str
    scheme: str
    model: str
    model_hash: str
    text_hash: str
    device: str
    versions: str
    figures: str


class Store:
    """The file `folder`/results.sqlite. Every call opens it anew, so any thread and any process may call.

    `Store.in_memory()` writes no file: what is asked of a visitor's own text goes with whoever holds the object."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or home()) / FILE
        self.notice: str | None = None
        self._lock = threading.RLock()
        self._memory: sqlite3.Connection | None = None

    @classmethod
    def in_memory(cls) -> Store:
        """A store without a file."""
        store = cls()
        store._memory = sqlite3.connect(":memory:", check_same_thread=False)
        store._memory.execute(TABLE)
        return store

    def get(self, question: Question, shape: Callable[[Answer], object] | None = None) -> Answer | None:
        """The answer to the question, None where it is not kept, or its row cannot be read.

        shape    makes of the answer what its reader makes of it; where that raises, the row is another version's, or
                 was written by hand: it is let go, and the question is open again"""

        def read(connection: sqlite3.Connection) -> Answer | None:
            sql = "SELECT figures, arrays, made FROM results WHERE key = ?"
            row = connection.execute(sql, (question.key,)).fetchone()
            return None if row is None else Answer(json.loads(row[0]), _unpacked(row[1]), row[2])

        try:
            answer = self._do(read)
            if answer is not None and shape is not None:
                shape(answer)
        except Exception:  # measured anew, and then replaced
            self._do(lambda connection: connection.execute("DELETE FROM results WHERE key = ?", (question.key,)))
            return None
        return answer

    def kept(self, questions: Iterable[Question]) -> list[bool]:
        """Of each question whether an answer is kept, without reading it."""
        keys = [question.key for question in questions]
        sql = f"SELECT key FROM results WHERE key IN ({','.join('?' * len(keys))})"
        found = self._do(lambda connection: {row[0] for row in connection.execute(sql, keys)}) or set()
        return [key in found for key in keys]

    def put(self, question: Question, figures: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep an answer; an older one to the same question is replaced."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        q = question
        row = (q.key, made, q.kind, q.scheme, q.model, q.model_hash, q.text_hash, q.device, json.dumps(q.versions))

        def write(connection: sqlite3.Connection) -> None:
            marks = ",".join("?" * (len(row) + 2))
            values = (*row, json.dumps(figures), _packed(arrays))
            connection.execute(f"INSERT OR REPLACE INTO results VALUES ({marks})", values)

        self._do(write)

    def rows(self, kind: str) -> list[Row]:
        """All answers of one kind without their arrays, newest first."""
        sql = f"SELECT {', '.join(Row._fields)} FROM results WHERE kind = ? ORDER BY made DESC, key"
        found = self._do(lambda connection: connection.execute(sql, (kind,)).fetchall()) or []
        return [Row(*row) for row in found]

    def arrays(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of one answer; None where it is gone."""
        sql = "SELECT arrays FROM results WHERE key = ?"
        row = self._do(lambda connection: connection.execute(sql, (key,)).fetchone())
        return None if row is None else _unpacked(row[0])

    def drop(self, keys: Iterable[str]) -> None:
        """Let go of these answers."""
        each = [(key,) for key in keys]
        self._do(lambda connection: connection.executemany("DELETE FROM results WHERE key = ?", each))

    def clear(self) -> None:
        """Let go of every answer."""
        self._do(lambda connection: connection.execute("DELETE FROM results"))

    def count(self) -> int:
        """How many answers are kept."""
        return self._do(lambda connection: int(connection.execute("SELECT COUNT(*) FROM results").fetchone()[0])) or 0

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run `work` on the open file; None, and a notice, where the file cannot be used."""
        for attempt in range(2):
            try:
                with self._open() as connection, connection:
                    return work(connection)
            except sqlite3.OperationalError as error:  # locked for long, full, read-only: the file itself is sound
                self.notice = f"{self.path} cannot be used now ({error}); results of this run are not kept"
                return None
            except sqlite3.DatabaseError as error:
                if attempt == 0:
                    self._set_aside(error)
                else:
                    self.notice = f"{self.path} cannot be read ({error}); results of this run are not kept"
            except OSError as error:
                self.notice = f"{self.path} cannot be used ({error.strerror}); set QUANT_HOME to a folder of yours"
                return None
        return None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._memory is not None:
            with self._lock:
                yield self._memory
            return
        private_folder(self.path.parent)
        if not self.path.exists():
            self.path.touch(mode=PRIVATE_FILE)  # SQLite gives the files beside it the same rights
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(TABLE)
            yield connection

    def _set_aside(self, error: Exception) -> None:
        """Give the file another name, unless another thread or server has done so since: then it is a new one."""
        with self._lock:
            if self._sound():
                return
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
            aside = self.path.with_name(f"damaged-{stamp}.sqlite")
            for end in ("", "-wal", "-shm"):
                file = self.path.with_name(self.path.name + end)
                if file.exists():
                    file.rename(aside.with_name(aside.name + end))
            self.notice = f"the file of kept results was damaged ({error}); it is set aside as {aside}, a new one begun"

    def _sound(self) -> bool:
        try:
            with self._open() as connection:
                return bool(connection.execute("PRAGMA quick_check").fetchone() == ("ok",))
        except sqlite3.DatabaseError as error:
            return isinstance(error, sqlite3.OperationalError)  # locked, not damaged


def private_folder(folder: Path) -> Path:
    """Make the folder, for this user alone, where it is not there yet. Raises: OSError."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def shape_of(*records: type) -> str:
    """Eight digits that change with any field of these dataclasses: part of a question's `kind`, so that what an older
    version kept is no answer to what this one asks."""
    named = [(one.__name__, field.name, str(field.type)) for one in records for field in fields(one)]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8]


def home() -> Path:
    """The folder of kept results: QUANT_HOME, else `quantization-lab` in the user's data folder."""
    if named := os.environ.get("QUANT_HOME"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "quantization-lab"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "quantization-lab"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "quantization-lab"


def model_hash(model: HasTensors) -> str:
    """SHA-256 over the names, shapes and types of a model's tensors and the SHA-256 of each one's bytes, 16 digits.
    Tensors are hashed on several threads, beside what a GPU has to do."""
    tensors = model.state_dict()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # what is being written to a tensor is there

    def line(name: str) -> bytes:
        tensor, digest = tensors[name], hashlib.sha256()
        with _beside(tensor.device):
            _add(digest, tensor)
        return f"{name} {tuple(tensor.shape)} {tensor.dtype} {digest.hexdigest()}\n".encode()

    if HASHERS == 1:
        lines = [line(name) for name in tensors]
    else:
        with ThreadPoolExecutor(HASHERS) as threads:
            lines = list(threads.map(line, tensors))
    return hashlib.sha256(b"".join(lines)).hexdigest()[:16]


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On a GPU: a stream of its own."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield


def tokens_hash(*tokens: Tensor | None) -> str:
    """SHA-256 of token windows, their shape included, 16 digits; of several texts in their order."""
    digest = hashlib.sha256()
    for one in tokens:
        digest.update(b"none" if one is None else str(tuple(one.shape)).encode())
        if one is not None:
            _add(digest, one)
    return digest.hexdigest()[:16]


def _add(digest: Any, tensor: Tensor) -> None:
    """The tensor's bytes, a piece at a time: a large model on a GPU comes to the CPU in pieces."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    size = min(HASH_BYTES, len(flat))
    staged = torch.empty(size, dtype=torch.uint8, pin_memory=True) if flat.is_cuda else None
    for piece in torch.split(flat, HASH_BYTES):
        here = piece if staged is None else staged[: len(piece)].copy_(piece)
        digest.update(here.numpy().data)


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()


def _unpacked(packed: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
