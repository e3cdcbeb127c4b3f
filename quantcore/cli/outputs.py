"""What the command line's verbs leave behind: a bar on stderr, and files that are whole or not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.ranks import ranks


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr; yields what the engine calls with the share done and what it is at."""
    form = "{l_bar}{bar}| {elapsed} {postfix}"
    with tqdm(total=100, desc=title, file=sys.stderr, bar_format=form, disable=not ranks().first) as bar:

        def tell(share: float, what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update(100 * share - bar.n)

        yield tell


def new_file(path: str | Path, force: bool, folder: Path | None = None) -> Path:
    """The absolute path of a file to write. Raises: ValueError where one is there, or its folder is not."""
    target = Path(path).expanduser().absolute()
    parent = target.parent if folder is None else folder.parent
    if not parent.is_dir():
        raise ValueError(f"{str(parent)!r} is no folder, so nothing can be written into it; make it first")
    if target.is_dir() or (target.exists() and not force):
        raise ValueError(f"{str(target)!r} is there already and stays as it is; choose a new name, or use --force")
    return target


def write_whole(target: Path, text: str) -> None:
    """All of the text or no file."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"cannot write {str(target)!r} ({error.strerror}); choose another place") from error
