"""What the command line's verbs read: a model, a text, and calibration text, as windows of tokens.

Without a seed the first windows of a text are taken; with one, as many are drawn from all of it at random, the same
for the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantcore.models import (
    TEXT_KINDS,
    WINDOW,
    LoadedModel,
    bundled_text,
    devices,
    load_model,
    token_windows,
)
from quantcore.scheme import Gptq, Scheme
from quantcore.store import tokens_hash
from quantcore.texts import read_text_file

MAX_TOKENS = 2560
CALIBRATION_TOKENS = 2560
GPTQ_TOKENS = 16384


def load(model: str, device: str | None) -> LoadedModel:
    """The model of that name. Raises: ValueError for a device that is not here, and what `load_model` refuses."""
    known = devices()
    if device not in (None, *known, *(["cuda"] if len(known) > 1 else [])):
        raise ValueError(f"device {device!r} is not on this machine; it has {', '.join(known)}")
    return load_model(model, device)


@dataclass(frozen=True)
class Text:
    """A text before there is a tokenizer: a user's (None: our own of `split`), how many tokens of it, and the seed."""

    path: str | None
    own: str | None
    most: int
    seed: int | None
    split: str = "evaluation"

    def tokens(self, loaded: LoadedModel) -> Tensor:
        """At most `most` tokens, (windows, T); of our own text an equal share of each kind."""
        if self.own is not None:
            return self._windows(loaded, self.own, self.most)
        share = self.most // len(TEXT_KINDS)
        return torch.cat([self._windows(loaded, bundled_text(self.split, kind), share) for kind in TEXT_KINDS])

    def facts(self, tokens: Tensor) -> dict[str, Any]:
        """Where the tokens are from, for the JSON."""
        return {
            "source": self.path or f"bundled {self.split}",
            "tokens": tokens.numel(),
            "windows": len(tokens),
            "hash": tokens_hash(tokens),
            "seed": self.seed,
        }

    def _windows(self, loaded: LoadedModel, text: str, most: int) -> Tensor:
        length = min(WINDOW, loaded.context, most)
        if self.seed is None:
            return token_windows(loaded.tokenizer, text, length, most)
        every = token_windows(loaded.tokenizer, text, length)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))
        return every[order[: max(1, most // every.shape[1])].sort().values]


def text_of(path: str | None, most: int, seed: int | None = None, split: str = "evaluation") -> Text:
    """A text to read; a user's file is read here, before any model is, so that a wrong file is told at once."""
    if most < 2 * len(TEXT_KINDS):
        raise ValueError(f"--max-tokens {most} is too few; give at least {2 * len(TEXT_KINDS)}")
    return Text(path, None if path is None else read_text_file(path).joined(), most, seed, split)


def calibration_text(schemes: Iterable[Scheme], seed: int | None = None) -> Text:
    """Our own calibration text; GPTQ's Hessians need more of it than ranges do."""
    by_gptq = any(isinstance(scheme.method, Gptq) for scheme in schemes)
    return text_of(None, GPTQ_TOKENS if by_gptq else CALIBRATION_TOKENS, seed, "calibration")
