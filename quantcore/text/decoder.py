"""Tokens' ids as text, each asked of the tokenizer once and many in one question: its answer comes from a process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Decoder:
    """decode(17) is one token's text, decode.all(ids) the texts of many. Keeps at most a vocabulary of texts."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        return self.all([token])[0]

    def all(self, tokens: Iterable[int]) -> list[str]:
        asked = list(tokens)
        unknown = sorted(set(asked) - self._texts.keys())
        if unknown:
            self._texts.update(zip(unknown, self._tokenizer.batch_decode([[one] for one in unknown]), strict=True))
        return [self._texts[one] for one in asked]
