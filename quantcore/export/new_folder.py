"""A model's folder that is either whole or not there: where it may be, and how it comes into being."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantcore.model.loading import source_path


def require_place(folder: str | Path, source: str, force: bool) -> Path:
    """The absolute path to write to. Raises: ValueError for a folder that is there without `force`, that is no model's,
    that is the source itself, or whose parent is missing or closed."""
    target = Path(folder).expanduser().absolute()
    if not target.parent.is_dir():
        raise ValueError(f"{str(target.parent)!r} is no folder, so nothing can be written into it; make it first")
    if target.exists() or target.is_symlink():
        if not force:
            raise ValueError(f"{str(target)!r} is there already and stays as it is; choose a new name, or use --force")
        if target.is_symlink() or not target.is_dir() or not _is_models(target):
            raise ValueError(f"{str(target)!r} is no model's folder, so it is not replaced; choose a new name")
        if _is_source(target, source):
            raise ValueError(f"{str(target)!r} is the model that is being quantized; choose another folder")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"no permission to write in {str(target.parent)!r}; choose another folder")
    return target


def _is_models(folder: Path) -> bool:
    return (folder / "config.json").is_file() or not any(folder.iterdir())


def _is_source(folder: Path, source: str) -> bool:
    try:
        return Path(source_path(source)).samefile(folder)
    except (ValueError, OSError):
        return False


_under_way: set[Path] = set()  # hidden folders that are being written


@contextmanager
def all_or_nothing(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, which takes its name if all goes well and is removed if not."""
    temporary = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    _under_way.add(temporary)
    try:
        temporary.mkdir()
        yield temporary
        _take_the_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (sentence := _disk_trouble(error, target)) is not None:
            raise ValueError(sentence) from error
        raise
    finally:
        _under_way.discard(temporary)


def drop_partial() -> None:
    """Take away what is half written, for a process that is about to end: others of its threads may still write."""
    for temporary in list(_under_way):
        for _ in range(100):
            shutil.rmtree(temporary, ignore_errors=True)
            if not temporary.exists():
                break


def _take_the_place(temporary: Path, target: Path) -> None:
    """Rename; an older folder of the name steps aside first and comes back if the rename fails."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = temporary.with_name(f"{temporary.name}-before")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _disk_trouble(error: BaseException, target: Path) -> str | None:
    """A failed write as a sentence; None for an error of another kind. safetensors tells the cause in its text only."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    if full and not isinstance(error, ValueError):
        return f"the disk of {str(target.parent)!r} is full; nothing was kept; make room, or choose another disk"
    if isinstance(error, OSError):
        return f"cannot write {str(target)!r} ({error.strerror or error}); nothing was kept; choose another folder"
    return None
