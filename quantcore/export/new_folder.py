"""A model's folder that is either whole or not there: where it may be, and how it comes into being.

It grows under a hidden name beside its place, and takes its name at the end. Whoever writes holds a lock on the hidden
folder (flock, which the system lets go of when a process dies, however it dies): what is found unlocked was left by a
process that is no more, and the next export to that name removes it. A model that stepped aside for its successor and
did not come back, because the process died between the two renames, is put back first.

Limit: Windows has no such locks; there nothing is swept.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantcore.model.locate import source_path
from quantcore.model.named_path import cause, named_path
from quantcore.model.sentences import quoted
from quantcore.model.weight_files import read_json
from quantcore.pipeline.ranks import ranks

LOCKS = os.name == "posix"
BEFORE = "-before"
OURS = r".partial-[0-9a-f]*"
IN_WORDS = re.compile(r"\(os error (\d+)\)")  # as Rust's libraries tell it


def require_place(folder: str | Path, source: str, force: bool) -> Path:
    """The absolute path to write to. Raises: ValueError for a folder that is there without `force`, that is no model's,
    that is or holds the source itself, that another process is writing, or whose parent is missing or closed."""
    target = named_path(folder)
    if not target.parent.is_dir():
        raise ValueError(f"{quoted(target.parent)} is no folder, so nothing can be written into it; make it first")
    if os.path.lexists(target):
        if not force:
            raise ValueError(f"{quoted(target)} is there already and stays as it is; choose a new name, or use --force")
        if target.is_symlink() or not target.is_dir() or not _is_models(target):
            raise ValueError(f"{quoted(target)} is no model's folder, so it is not replaced; choose a new name")
        if _holds_source(target, source):
            raise ValueError(
                f"{quoted(target)} is the model that is being quantized, or has it inside; choose another folder"
            )
    if ranks().first and _being_written(target):  # where several processes share a run, the first one writes
        raise ValueError(f"{quoted(target)} is being written by another export; wait for it, or choose a new name")
    trial = _hidden(target, BEFORE)  # the longest name that is needed
    try:
        trial.mkdir()
        with suppress(FileNotFoundError):  # swept by another export
            trial.rmdir()
    except OSError as error:
        raise ValueError(
            f"cannot write {quoted(target)}: no folder can be made there ({cause(error)}); choose another place"
        ) from error
    return target


def _is_models(folder: Path) -> bool:
    """Whether it is empty, or its config.json is a model's: other things have one, too."""
    if not any(folder.iterdir()):
        return True
    try:
        return isinstance(read_json(folder / "config.json").get("model_type"), str)
    except (ValueError, OSError):
        return False


def _holds_source(folder: Path, source: str) -> bool:
    try:
        place = Path(source_path(source)).resolve(strict=True)
        return any(one.samefile(folder) for one in (place, *place.parents))
    except (ValueError, OSError):
        return False


_under_way: set[Path] = set()  # hidden folders that are being written


@contextmanager
def all_or_nothing(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, which takes its name if all goes well and is removed if not. What an export
    to the same name has left behind when it was killed is removed first.

    Raises: ValueError where the disk fails, or where something has taken the name meanwhile."""
    _sweep(target)
    found = _identity(target)
    temporary, lock = _new_and_locked(target)
    _under_way.add(temporary)
    try:
        yield temporary
        if _identity(target) != found:
            raise ValueError(f"{quoted(target)} was written by another meanwhile and stays; choose a new name")
        _take_the_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (sentence := _disk_trouble(error, target)) is not None:
            raise ValueError(sentence) from error
        raise
    finally:
        _under_way.discard(temporary)
        _let_go(lock)


def drop_partial() -> None:
    """Take away what is half written, for a process that is about to end: others of its threads may still write."""
    for temporary in list(_under_way):
        for _ in range(100):
            shutil.rmtree(temporary, ignore_errors=True)
            if not temporary.exists():
                break


def _hidden(target: Path, end: str = "") -> Path:
    return target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}{end}")


def _all_hidden(target: Path) -> list[Path]:
    """Those of this name, what stepped aside first."""
    found = target.parent.glob(f".{_literal(target.name)}{OURS}")
    return sorted((one for one in found if one.is_dir() and not one.is_symlink()), reverse=True)


def _being_written(target: Path) -> bool:
    """Whether a process that lives holds a hidden folder of this name."""
    for folder in _all_hidden(target):
        lock = _locked(folder)
        if lock is None and LOCKS and folder.exists():
            return True
        _let_go(lock)
    return False


def _identity(target: Path) -> int | None:
    return target.stat().st_ino if target.exists() else None


def _new_and_locked(target: Path) -> tuple[Path, int | None]:
    """A new hidden folder, and the lock on it. One that another process swept before it was locked is made anew."""
    while True:
        folder = _hidden(target)
        try:
            folder.mkdir()
        except OSError as error:
            raise ValueError(_disk_trouble(error, target)) from error
        lock = _locked(folder)
        if folder.exists() and (lock is not None or not LOCKS):
            return folder, lock


def _locked(folder: Path) -> int | None:
    """A file descriptor that holds the folder's lock; None where another has it, or the folder is gone."""
    if not LOCKS:
        return None
    import fcntl

    try:
        opened = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _sweep(target: Path) -> None:
    """Remove what exports to this name left that were killed; a model that had stepped aside is put back."""
    for folder in _all_hidden(target):
        if (lock := _locked(folder)) is None:
            continue
        if folder.name.endswith(BEFORE) and not os.path.lexists(target):
            folder.rename(target)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        _let_go(lock)


def _literal(name: str) -> str:
    """A name that a glob takes as it is."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in name)


def _take_the_place(temporary: Path, target: Path) -> None:
    """Rename; an older folder of the name steps aside first and comes back if the rename fails."""
    if not target.exists():
        temporary.rename(target)
        return
    lock = _locked(target)  # so that nobody sweeps it while it stands aside
    aside = temporary.with_name(f"{temporary.name}{BEFORE}")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    finally:
        _let_go(lock)
    shutil.rmtree(aside, ignore_errors=True)


def _disk_trouble(error: BaseException, target: Path) -> str | None:
    """A failed write as a sentence; None for an error of another kind. safetensors says the number in words only."""
    told = None if isinstance(error, ValueError) else IN_WORDS.search(str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {quoted(target.parent)} is full; nothing was kept; make room, or choose another disk"
    if told or isinstance(error, OSError):
        why = os.strerror(int(told[1])) if told else cause(error)
        return f"cannot write {quoted(target)} ({why}); nothing was kept; choose another folder"
    return None
