"""A text's ids, a piece at a time: a tokenizer takes 200 to 400 bytes of memory for each byte that it is asked about.

    ids_of(tokenizer, ["some text"])                  all ids of the text
    ids_of(tokenizer, ["some text"], most=1024)       at least its first 1,024; behind them the text is not looked at

The tokenizer itself says where a text may be cut: behind a line's end, else behind a word. A place is taken where the
CONTEXT before it has the same ids with and without what follows, and where the piece that ends there ends in the same
ids as that context alone. A piece is read with the context before it, whose ids are then taken off: what a tokenizer
puts before any text (Metaspace's space) stands before the whole text alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from re import compile
from typing import Any

PIECE = 100_000  # characters, and up to twice as many where a place is sought
CONTEXT = 200
LONGEST_PIECE = 1_000_000  # bytes
TRIED, TRIED_WHOLE = 100, 3  # places of a kind, and those of them that are tried with the whole piece
PLACES = compile(r"(?<=\n)(?=\S)"), compile(r"(?<=\S)(?=\s)")

Encode = Callable[[str], list[int]]


def ids_of(tokenizer: Any, parts: Iterable[str], most: int | None = None) -> array[int]:
    """The ids of all parts as one text, without special tokens; with `most` reading ends where so many are found.

    What is no character (a lone surrogate) becomes "?". Raises: ValueError for a long text that this tokenizer does not
    read piece by piece, and what the tokenizer raises."""
    found = array("q")
    for ids in _pieces(lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]), parts):
        found.extend(ids)
        if most is not None and len(found) >= most:
            break
    return found


def _pieces(encode: Encode, parts: Iterable[str]) -> Iterator[list[int]]:
    slices = (part[start : start + PIECE] for part in parts for start in range(0, len(part), PIECE))
    more = (one.encode("utf-8", "replace").decode("utf-8") for one in slices)
    text, start, size, ended = "", 0, PIECE, False  # the context is text[:start]
    while True:
        while not ended and len(text) - start <= 2 * size:
            part = next(more, None)
            text, ended = text + (part or ""), part is None
        if start == len(text):
            return
        if size > PIECE:
            _require_size(text[start:])
        if (found := _piece(encode, text, start, size, ended)) is None:
            size *= 2
            continue
        ids, end = found
        known = encode(text[:start]) if start else []
        if ids[: len(known)] != known:
            raise ValueError(
                "this model's tokenizer looks far across lines and words, so it reads no long text piece by piece; "
                f"give at most {2 * PIECE:,} characters"
            )
        yield ids[len(known) :]
        text, start, size = text[max(0, end - CONTEXT) :], min(end, CONTEXT), PIECE


def _piece(encode: Encode, text: str, start: int, size: int, ended: bool) -> tuple[list[int], int] | None:
    """The ids of the context and of the piece behind it, and where that ends; None where no place was found."""
    if ended and len(text) - start <= 2 * size:
        return encode(text), len(text)
    whole = 0
    for places in PLACES:
        for end in (one.start() for one in islice(places.finditer(text, start + size, len(text) - CONTEXT), TRIED)):
            context, behind = text[end - CONTEXT : end], text[end : end + CONTEXT]
            known = encode(context)
            last = len(known) // 2
            if not last or encode(context + behind)[: len(known)] != known:
                continue
            if (ids := encode(text[:end]))[-last:] == known[-last:]:
                return ids, end
            if (whole := whole + 1) == TRIED_WHOLE:
                return None
    return None


def _require_size(piece: str) -> None:
    size = len(piece.encode("utf-8"))
    if size > LONGEST_PIECE:
        raise ValueError(
            f"the text has {size / 1e6:.1f} MB without a line's end or a space where this model's tokenizer lets it be "
            f"cut, and it reads at most {LONGEST_PIECE / 1e6:.0f} MB at once; break its lines, or give a part of it"
        )
