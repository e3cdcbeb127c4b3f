"""A text as windows of token ids, and the texts that ship with the lab."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from quantcore.model.loading import WINDOW
from quantcore.model.locate import ASSETS
from quantcore.text.pieces import ids_of


def bundled_text(split: str = "evaluation", kind: str = "all") -> str:
    """Our own text: `split` calibration or evaluation, `kind` one of TEXT_KINDS, or all of them in turn.

    Documents are set apart by blank lines: the files' end mark would be a word like any other to most tokenizers."""
    if split not in TEXT_SPLITS:
        raise ValueError(f"no bundled text is called {split!r}; try {' or '.join(TEXT_SPLITS)}")
    if kind != "all" and kind not in TEXT_KINDS:
        raise ValueError(f"no kind of text is called {kind!r}; try all, {', '.join(TEXT_KINDS)}")
    kinds = TEXT_KINDS if kind == "all" else (kind,)
    texts = [(ASSETS / "text" / split / f"{one}.txt").read_text(encoding="utf-8") for one in kinds]
    return "".join(texts).replace(DOCUMENT_END, "\n")


def require_text_size(size_bytes: int) -> None:
    if size_bytes > LONGEST_TEXT_BYTES:
        raise ValueError(
            f"the text has {size_bytes / 1e6:.1f} MB, the limit is {LONGEST_TEXT_BYTES / 1e6:.0f} MB; give a part of it"
        )


def token_windows(tokenizer: Any, text: str | Iterable[str], length: int = WINDOW, limit: int | None = None) -> Tensor:
    """The text, whole or in parts, as non-overlapping windows of token ids, shape (windows, length), int64.

    The text is tokenized as far as it is read, and cut; a rest shorter than a window is left out, unless it is all
    there is. What the tokenizer puts before a text (bos, or several tokens), each window begins with, as in training:
    once, also where the text has it there already, as a chat template writes it. `limit` keeps the first windows that
    hold at most so many tokens. What is no character (a lone surrogate) becomes "?".
    Raises: ValueError for a text with fewer than two tokens, for windows that hold none of it, and as `ids_of`."""
    if isinstance(text, str):
        require_text_size(len(text.encode("utf-8", "replace")))
        text = [text] if text.strip() else []
    prefix = prefix_of(tokenizer)
    if length < max(2, len(prefix) + 1):
        raise ValueError(f"a window of {length} tokens is too short: a model needs two to predict one; give at least 2")
    ids = ids_of(tokenizer, text, None if limit is None else max(limit, length) + len(prefix))
    first = _begun(prefix, ids[:length].tolist())  # a text of 20 MB is millions of tokens
    if len(first) < 2:
        raise ValueError(f"the text gives {len(ids)} tokens and a model needs two to predict one; give a sentence")
    length = min(length, len(first))
    most = len(ids) if limit is None else max(1, limit // length)
    rows, start = array("q"), 0
    while len(rows) < most * length and len(row := _begun(prefix, ids[start : start + length].tolist())) >= length:
        start += length - (0 if ids[start : start + len(prefix)].tolist() == prefix else len(prefix))
        rows.extend(row[:length])
    return torch.frombuffer(rows, dtype=torch.int64).view(-1, length)


def prompt_tokens(tokenizer: Any, prompt: str, context: int | None) -> tuple[Tensor, int]:
    """A prompt as one row of token ids, (1, T), and how many tokens were cut from its start to fit the context.

    It begins with what the tokenizer puts before a text; what is no character (a lone surrogate) becomes "?".
    context   None: all of it fits. Raises: ValueError for a prompt of nothing but spaces."""
    prefix = prefix_of(tokenizer)
    readable = prompt.encode("utf-8", "replace").decode("utf-8")
    ids = tokenizer(readable, add_special_tokens=False, verbose=False)["input_ids"] if readable.strip() else []
    if not ids:
        raise ValueError("the prompt is empty and a model continues what it has read; type the start of a sentence")
    if ids[: len(prefix)] == prefix:
        ids = ids[len(prefix) :]
    kept = ids[-max(1, context - len(prefix)) :] if context is not None else ids
    return torch.tensor([prefix + kept], dtype=torch.int64), len(ids) - len(kept)


def prefix_of(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer itself puts before a text: [bos], GLM's two, or none."""
    text, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    places = range(len(whole) - len(text) + 1)
    return list(next((whole[:place] for place in places if text and whole[place : place + len(text)] == text), []))


def _begun(prefix: list[int], ids: list[int]) -> list[int]:
    """The tokens with the prefix before them, once."""
    return ids if ids[: len(prefix)] == prefix else prefix + ids


TEXT_SPLITS = ("calibration", "evaluation")


TEXT_KINDS = ("encyclopedia", "story", "technical", "code", "dialogue")


DOCUMENT_END = "<|endoftext|>\n"


LONGEST_TEXT_BYTES = 20_000_000
