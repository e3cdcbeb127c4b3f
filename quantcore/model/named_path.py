"""A path as a user wrote it: whatever the system says against it is one sentence.

named_path("~/texts/a.txt")          absolute, `~` read
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from quantcore.model.sentences import cut, quoted

LONGEST = 100  # characters of an error's own words in a sentence of ours


def named_path(text: str | Path) -> Path:
    """Raises: ValueError for what no file can be called here: nothing at all, a user who is none, too long a name."""
    try:
        if not str(text).strip():
            raise ValueError("it is empty")
        path = Path(text).expanduser().absolute()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{quoted(text)} cannot be the name of a file ({cause(error)}); give another") from error
    return path


def cause(error: BaseException) -> str:
    """What an error says, without the path that it may repeat."""
    words = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return cut(words, LONGEST)
