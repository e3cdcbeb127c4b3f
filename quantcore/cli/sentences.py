"""How the command line says that something went wrong: one sentence of less than 400 characters, whatever it was."""

from __future__ import annotations

from collections.abc import Sequence

from quantcore.model.memory import asked_for, is_lack_of_memory
from quantcore.model.named_path import cause
from quantcore.model.sentences import cut, quoted

LONGEST = 370


def sentence(error: BaseException) -> str:
    """What an error is to whoever typed the line."""
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return cut(" ".join(str(error).split()), LONGEST)
    if is_lack_of_memory(error, cause(error)):
        more = f" ({asked} more were asked for)" if (asked := asked_for(str(error))) else ""
        return (
            f"there was not enough memory{more}; try fewer tokens (--max-tokens), fewer schemes at once, a smaller "
            "model, or --stream"
        )
    if isinstance(error, RecursionError):
        return "something is nested too deeply to be read; give a file, or a text, that is less so"
    if isinstance(error, OSError):
        where = f" {quoted(error.filename)}" if error.filename else ""
        return f"the system refuses{where} ({cause(error)}); check the place and its rights"
    return f"the lab met an error of its own ({type(error).__name__}: {cause(error)}); please report it"


def require_readable(words: Sequence[str]) -> None:
    """Raises: ValueError for a word that is no text: bytes that are not UTF-8 reach us as halves of characters."""
    for word in words:
        if "\0" in word or word != word.encode("utf-8", "replace").decode("utf-8"):
            shown = quoted(word.encode("utf-8", "replace").decode("utf-8"))
            raise ValueError(f"the word {shown} is no text in UTF-8, or holds a zero byte; write it anew")
