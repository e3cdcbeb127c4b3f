"""The checkpoints that visitors write: where they lie, who may read them, how much room they take.

A user's own server keeps them until the user deletes them. A class has a folder of its own with a limit: the checkpoint
that nobody has looked at for the longest time goes first, so the teacher's own are never touched.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantcore.measure.store import PRIVATE_FILE, PRIVATE_FOLDER, home, private_folder
from ui.classroom import EXPORT_BYTES, classroom

OWN, OF_CLASS = "exports", "class-exports"
LOST_S = 24 * 3600.0  # after which a half-written checkpoint is nobody's
_making_room = threading.Lock()


@dataclass(frozen=True)
class Export:
    """A checkpoint's folder, its size, and when somebody last looked at it (seconds since 1970)."""

    folder: Path
    bytes: int
    used: float


def root() -> Path:
    """The folder of all checkpoints."""
    return home() / (OWN if classroom() is None else OF_CLASS)


def listed() -> list[Export]:
    """The checkpoints, the one used last at the end."""
    folders = [one for one in root().iterdir() if one.is_dir()] if root().is_dir() else []
    found = [export for one in folders if (export := _export(one)) is not None]
    return sorted(found, key=lambda one: one.used)


def limit_text() -> str:
    return "as much as the disk has" if classroom() is None else f"{EXPORT_BYTES / 1e9:g} GB"


def look(folder: Path) -> None:
    """Note that somebody looks at a checkpoint."""
    if folder.is_dir():
        os.utime(folder)


@contextmanager
def room_for(folder: Path, needed: int) -> Iterator[None]:
    """Write a checkpoint of about `needed` bytes to `folder` inside the block: in class mode the oldest make room for
    it first. What was written is this user's alone.

    Raises: ValueError where the folder cannot be made, or the checkpoint is larger than all room there is."""
    if classroom() is not None and needed > EXPORT_BYTES:
        raise ValueError(
            f"the checkpoint needs about {needed / 1e9:.1f} GB and this server keeps {EXPORT_BYTES / 1e9:g} GB in all; "
            "take a smaller model, or write it on your own machine with the command above"
        )
    try:
        private_folder(home())
        private_folder(root())
        if classroom() is not None:
            make_room(EXPORT_BYTES - needed)
    except OSError as error:
        raise ValueError(
            f"cannot make {str(root())!r} ({error.strerror}); set QUANT_HOME to a folder of yours"
        ) from error
    yield
    keep_private(folder)
    if classroom() is not None:
        make_room(EXPORT_BYTES)  # a size known before is an estimate


def make_room(most: int) -> None:
    """Delete the checkpoints used longest ago until all together have at most `most` bytes."""
    with _making_room:
        left = listed()
        while left and sum(one.bytes for one in left) > most:
            shutil.rmtree(left.pop(0).folder, ignore_errors=True)


def delete_all() -> None:
    """Delete every checkpoint of this server."""
    make_room(-1)


def keep_private(folder: Path) -> None:
    """Take from others the right to read a folder and all in it."""
    folder.chmod(PRIVATE_FOLDER)
    for path in folder.rglob("*"):
        path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)


def _export(folder: Path) -> Export | None:
    """None for what another thread deletes meanwhile, and for a half-written one that is being written."""
    try:
        used = folder.stat().st_mtime
        if folder.name.startswith(".") and time.time() - used < LOST_S:
            return None
        return Export(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), used)
    except OSError:
        return None
