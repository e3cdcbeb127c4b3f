"""What the command line's verbs leave behind: a bar on stderr, and files that are whole or not there."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from quantcore.model.named_path import cause, named_path
from quantcore.model.sentences import quoted
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.ranks import ranks

TRIED_BYTES = 2**16


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr, or where that is no terminal a line each tenth; yields what the engine calls with the share done
    and what it is at."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    form = "{l_bar}{bar}| {elapsed} {postfix}"
    with tqdm(total=100, desc=title, file=sys.stderr, bar_format=form, disable=not ranks().first) as bar:

        def tell(share: float, what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update(100 * share - bar.n)

        yield tell


def _lines(title: str) -> Progress:
    """A line for each tenth of the work, for a log."""
    told = -1

    def tell(share: float, what: str) -> None:
        nonlocal told
        if ranks().first and int(10 * share) > told:
            told = int(10 * share)
            print(f"{title}: {100 * share:.0f}% {what}", file=sys.stderr)

    return tell


def new_file(path: str | Path, force: bool, folder: Path | None = None) -> Path:
    """The absolute path of a file to write. `folder`: it will be in there, and that may still have to be made.

    Raises: ValueError where one is there already, where what is there is no file (a device, a pipe), and where this
    user cannot write."""
    target = named_path(path)
    parent = target.parent if folder is None or folder.is_dir() else folder.parent
    if not parent.is_dir():
        raise ValueError(f"{quoted(parent)} is no folder, so nothing can be written into it; make it first")
    there = os.path.lexists(target)
    if target.is_dir() or (there and not force):
        raise ValueError(f"{quoted(target)} is there already and stays as it is; choose a new name, or use --force")
    if there and not target.is_file():
        raise ValueError(f"{quoted(target)} is no file (a device, a pipe, or a link to nothing); choose a new name")
    with _cannot_write(target):
        partial = parent / _partial(target).name
        try:
            partial.write_bytes(bytes(TRIED_BYTES))  # a full disk still makes an empty file
        finally:
            partial.unlink(missing_ok=True)
    return target


def new_folder(path: str | Path) -> Path:
    """The absolute path of a folder that is there or can be made. Raises: ValueError."""
    folder = named_path(path)
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{quoted(folder)} is there already and no folder; choose a new name")
    return folder


def write_whole(target: Path, text: str) -> None:
    """All of the text or no file. Raises: ValueError where it cannot be written."""
    partial = _partial(target)
    try:
        with _cannot_write(target):
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")


@contextmanager
def _cannot_write(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write {quoted(target)} ({cause(error)}); choose another place") from error
