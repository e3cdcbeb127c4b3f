"""What the command line's verbs read: a model, a text, and calibration text, as windows of tokens.

A text is named by its file, or by a hub's data set. A model that does not fit into memory, or that --stream asks for,
stays in its files.
Without a seed the first windows of a text are taken; with one, as many are drawn from all of it at random, the same
for the same seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantcore.cli.outputs import progress_bar
from quantcore.measure.store import tokens_hash
from quantcore.model.loading import REFERENCE, WINDOW, LoadedModel, devices, load_model
from quantcore.model.memory import TooLarge
from quantcore.model.streamed import StreamedModel
from quantcore.scheme.scheme import Scheme
from quantcore.text.files import DATA_SET, DATA_SETS, KINDS, LoadedText, hub_text, read_text_file
from quantcore.text.windows import TEXT_KINDS, bundled_text, token_windows

MAX_TOKENS = 2560
CALIBRATION_TOKENS = 2560
GPTQ_TOKENS = 16384


def load(model: str, device: str | None) -> LoadedModel:
    """The model of that name. Raises: ValueError for a device that is not here, and what `load_model` refuses."""
    _require_device(device)
    if model == REFERENCE:
        return load_model(model, device)
    with progress_bar("loading") as tell:
        return load_model(model, device, tell)


class Opened(NamedTuple):
    """The model, whole or in its files; `why` it is streamed, None where it is not."""

    model: LoadedModel | StreamedModel
    why: str | None

    def facts(self) -> dict[str, Any]:
        """How the weights were held, for the JSON."""
        return {"streamed": self.why is not None, "streamed_why": self.why}


def opened(model: str, device: str | None, stream: bool) -> Opened:
    """The model of that name: loaded, or where `stream` asks for it or the memory does not suffice, left in its files.

    Raises: ValueError as `load`, and what `StreamedModel` refuses."""
    _require_device(device)
    why = "--stream"
    if not stream:
        try:
            return Opened(load(model, device), None)
        except TooLarge as error:
            if Path(model).is_file():  # a GGUF cannot be streamed
                raise
            why = str(error)
            print(f"quantcore: {why}; so it is streamed, one block at a time", file=sys.stderr)
    with progress_bar("opening") as tell:
        return Opened(StreamedModel(model, device, tell), why)


def _require_device(device: str | None) -> None:
    known = devices()
    if device not in (None, *known, *(["cuda"] if len(known) > 1 else [])):
        raise ValueError(f"device {device!r} is not on this machine; it has {', '.join(known)}")


@dataclass(frozen=True)
class Text:
    """A text before there is a tokenizer: a user's (None: our own of `split`), how many tokens of it, the seed, whether
    its documents stand in the chat template, and the tokens of a window."""

    own: LoadedText | None
    most: int
    seed: int | None
    split: str = "evaluation"
    chat: bool = False
    window: int = WINDOW

    def tokens(self, loaded: LoadedModel | StreamedModel) -> Tensor:
        """At most `most` tokens, (windows, T); of our own text an equal share of each kind."""
        if self.own is not None:
            return self._windows(loaded, self.own.joined(loaded.tokenizer, self.chat), self.most)
        share = self.most // len(TEXT_KINDS)
        return torch.cat([self._windows(loaded, bundled_text(self.split, kind), share) for kind in TEXT_KINDS])

    def facts(self, tokens: Tensor) -> dict[str, Any]:
        """Where the tokens are from, for the JSON."""
        return {
            "source": self.own.name if self.own else f"bundled {self.split}",
            **({"text_hash": self.own.hash, "revision": self.own.revision, "chat": self.chat} if self.own else {}),
            "tokens": tokens.numel(),
            "windows": len(tokens),
            "hash": tokens_hash(tokens),
            "seed": self.seed,
        }

    def _windows(self, loaded: LoadedModel | StreamedModel, text: str, most: int) -> Tensor:
        length = min(self.window, loaded.context, most)
        if self.seed is None:
            return token_windows(loaded.tokenizer, text, length, most)
        every = token_windows(loaded.tokenizer, text, length)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))
        return every[order[: max(1, most // every.shape[1])].sort().values]


def text_of(
    name: str | None,
    most: int,
    seed: int | None = None,
    split: str = "evaluation",
    chat: bool = False,
    window: int = WINDOW,
) -> Text:
    """A text to read; a user's is read here, before any model is, so that a wrong one is told at once.

    Raises: ValueError for too few tokens, what `read_text_file` and `hub_text` refuse, and a template for our own text,
    which is no conversation."""
    if most < 2 * len(TEXT_KINDS):
        raise ValueError(f"--max-tokens {most} is too few; give at least {2 * len(TEXT_KINDS)}")
    if window < 2:
        raise ValueError(f"--window {window} is too short: a model needs two tokens to predict one; give at least 2")
    if chat and name is None:
        raise ValueError("--chat is for a text of your own; name one with --text or --calibrate-on")
    return Text(None if name is None else named_text(name), most, seed, split, chat, window)


def named_text(name: str) -> LoadedText:
    """A file, or where there is none of that name a data set of the hub."""
    is_file = Path(name).is_file() or (":" not in name and name.endswith(tuple(f".{kind}" for kind in KINDS)))
    if not is_file and (name in DATA_SETS or DATA_SET.fullmatch(name)):
        return hub_text(name)
    return read_text_file(name)


def calibration_text(
    schemes: Iterable[Scheme],
    seed: int | None = None,
    name: str | None = None,
    chat: bool = False,
    window: int = WINDOW,
) -> Text:
    """The calibration text of that name, our own where there is none; GPTQ's Hessians need more of it than ranges."""
    most = GPTQ_TOKENS if any(scheme.needs_hessian for scheme in schemes) else CALIBRATION_TOKENS
    return text_of(name, most, seed, "calibration", chat and name is not None, window)
