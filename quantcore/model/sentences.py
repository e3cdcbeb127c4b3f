"""How names, paths and other people's errors stand in a sentence of ours: quoted, on one line, cut to length."""

from __future__ import annotations

import re


def quoted(what: object, longest: int = 80) -> str:
    """`what` as Python writes a string, cut to length."""
    return cut(repr(str(what)), longest + 2)


def named(source: object) -> str:
    """A model's name or path, as every sentence about it begins."""
    return quoted(source, 120)


def cut(text: str, longest: int) -> str:
    """The text; of a longer one the middle is left out."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def reason(error: BaseException, longest: int = 200) -> str:
    """The first sentence of an error, with the kind of error where it says no more than that."""
    text = " ".join(str(error).split())
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    return f"{type(error).__name__}: {first}"[:longest].encode("utf-8", "replace").decode()


def and_more(names: list[str]) -> str:
    """The first of several names, and how many there are: `'a' and 3 more tensors`."""
    more = len(names) - 1
    rest = f" and {more:,} more tensor{'s' * (more > 1)}" if more else ""
    return f"{quoted(names[0])}{rest}"
