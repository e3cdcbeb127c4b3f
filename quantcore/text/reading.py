"""Which text a model reads, how it is cut into windows, and for what: one line of text, the same in a link, a cache's
key, a stored answer and a shell.

    Reading.parse("evaluation/story|4x128")     4 windows of 128 tokens; `|chat` behind it: in the chat template;
                                                `|seed3`: windows drawn from all of the text, the same for the same seed
    EVALUATE.at_most(5120).tokens(lm, texts)    (windows, T), int64

A source is `evaluation/KIND` or `calibration/KIND` (ours; KIND `all` is an equal share of each of TEXT_KINDS), or
`own:HASH`, a text that `Texts.keep` was given: a reading names what is read by its contents, so the same line of text
is always the same question.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from quantcore.text.files import LoadedText
from quantcore.text.windows import TEXT_KINDS, bundled_text, token_windows

ALL, OWN = "all", "own:"
OWN_CHARACTERS = 50_000_000  # of all own texts together


class Reader(Protocol):
    """What cutting a text needs of a model: its tokenizer and the longest window it was made for, if there is one."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def context(self) -> int | None: ...


class Texts:
    """The texts that readings name: ours, and own ones by their hash; the oldest of those go when all are too long."""

    def __init__(self, most_characters: int = OWN_CHARACTERS) -> None:
        self._own: dict[str, LoadedText] = {}
        self._most = most_characters
        self._lock = threading.Lock()

    def keep(self, own: LoadedText) -> str:
        """The source by which a reading names this text from now on."""
        source = f"{OWN}{own.hash}"
        with self._lock:
            self._own.pop(source, None)
            self._own[source] = own
            while len(self._own) > 1 and sum(one.characters for one in self._own.values()) > self._most:
                self._own.pop(next(iter(self._own)))
        return source

    def clear(self) -> None:
        """Let go of the own texts."""
        with self._lock:
            self._own.clear()

    def __getitem__(self, source: str) -> LoadedText:
        """Raises: ValueError for an own text that is not kept (any more), and for a name that is none of ours."""
        if source.startswith(OWN):
            if source not in self._own:
                raise ValueError(f"the text {source} is not here (any more); paste it, upload it or read it again")
            return self._own[source]
        split, slash, kind = source.partition("/")
        if not slash:
            raise ValueError(
                f"{source!r} names no text; try evaluation/all, calibration/story, or keep one of your own"
            )
        return LoadedText(source, (bundled_text(split, kind),))


@dataclass(frozen=True)
class Reading:
    """`windows` windows of `length` tokens of a text; `chat`: its documents stand in the model's chat template; `seed`:
    the windows are drawn from all of the text, else they are its first."""

    source: str
    windows: int
    length: int
    chat: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.windows < 1 or self.length < 2:
            raise ValueError(
                f"{self.windows} windows of {self.length} tokens cannot be read: a model needs two tokens to predict "
                "one; ask for one window of 2 tokens at least"
            )
        if self.chat and not self.own:
            raise ValueError(f"{self.source} is no conversation, so it has no place in a chat template; leave it out")

    def __str__(self) -> str:
        drawn = "" if self.seed is None else f"|seed{self.seed}"
        return f"{self.source}|{self.windows}x{self.length}{'|chat' * self.chat}{drawn}"

    @classmethod
    def parse(cls, text: str, like: Reading | None = None) -> Reading:
        """The reading that `text` writes; what it leaves out is as in `like` (STUDY). Raises: ValueError."""
        like = STUDY if like is None else like
        source, *parts = text.split("|")
        found = replace(like, source=source, chat=False)
        for part in parts:
            match = re.fullmatch(r"(?P<windows>\d+)x(?P<length>\d+)|(?P<chat>chat)|seed(?P<seed>\d+)", part)
            if match is None:
                raise ValueError(f"cannot read {part!r} of {text!r}; a cut is 8x128, and `chat` or `seed3` may follow")
            said: dict[str, Any] = {
                name: value == "chat" or int(value) for name, value in match.groupdict().items() if value
            }
            found = replace(found, **said)
        return found

    @property
    def own(self) -> bool:
        """Whether the text is a visitor's or a user's, not one of ours."""
        return self.source.startswith(OWN)

    @property
    def kinds(self) -> int:
        """How many texts share the windows: every kind of ours, or the one."""
        return len(TEXT_KINDS) if self.source.endswith(f"/{ALL}") else 1

    def of(self, other: Reading) -> Reading:
        """This cut of the other's text."""
        return replace(self, source=other.source, chat=other.chat, seed=other.seed)

    def at_most(self, tokens: int, length: int | None = None) -> Reading:
        """As many whole windows as `tokens` hold, at least one of each kind of text; windows of `length` tokens, or as
        long as they are, but never longer than a kind's share."""
        share = tokens // self.kinds
        length = min(length or self.length, share)
        return replace(self, windows=max(1, share // max(1, length)) * self.kinds, length=length)

    def up_to(self, tokens: int) -> Reading:
        """`at_most`, but of somebody's own text no more than the reading says already."""
        return self.at_most(min(tokens, self.windows * self.length) if self.own else tokens)

    def tokens(self, reader: Reader, texts: Texts) -> Tensor:
        """The windows of token ids, (windows, T); T is the reader's context where that is shorter, and there are more
        windows then. Raises: ValueError as `Texts` and `token_windows`, and for a share shorter than a window."""
        if self.kinds == 1:
            return self._cut(reader, texts[self.source])
        split = self.source.partition("/")[0]
        each = replace(self, windows=max(1, self.windows // self.kinds))
        parts = {kind: each._cut(reader, texts[f"{split}/{kind}"]) for kind in TEXT_KINDS}
        lengths = {kind: part.shape[1] for kind, part in parts.items()}
        if short := [kind for kind, length in lengths.items() if length < max(lengths.values())]:
            raise ValueError(
                f"{split}/{short[0]} has {lengths[short[0]]} tokens, less than a window of {self.length}; take "
                "shorter windows"
            )
        return torch.cat(list(parts.values()))

    def words(self, texts: Texts) -> str:
        """The text in words: its name; of an own one also the hash, and the commit of a hub's."""
        if not self.own:
            return f"bundled {self.source.removesuffix(f'/{ALL}')}"
        found = texts[self.source]
        commit = f", revision {found.revision}" if found.revision else ""
        return f"{found.name} (SHA-256 {found.hash}{commit}{', in the chat template' * self.chat})"

    def _cut(self, reader: Reader, text: LoadedText) -> Tensor:
        most = self.windows * self.length
        length = min(self.length, reader.context or self.length, most)
        written = text.parts(reader.tokenizer, self.chat)
        if self.seed is None:
            return token_windows(reader.tokenizer, written, length, most)
        every = token_windows(reader.tokenizer, written, length)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))
        return every[order[: max(1, most // every.shape[1])].sort().values]


# What is read where nobody says otherwise, in the browser, the shell and a notebook alike; figures on one 15.7M model.
STUDY = Reading("evaluation/encyclopedia", 1, 512)
"""One layer looked at: one window, which a page can draw token by token."""

EVALUATE = Reading("evaluation/all", 10, 256)
"""A whole model measured: intervals are over windows, so ten short ones say more than five of 512 tokens."""

CALIBRATE = Reading("calibration/all", 20, 512)
"""What ranges and GPTQ learn from. KL of w:int4/group128,gptq: 0.114 from 2,560 tokens, 0.107 from 5,120, 0.102 from
these 10,240, 0.100 from 15,360, which takes half as long again."""

EACH_LAYER = Reading("calibration/all", 5, 128)
"""Each layer of a model measured alone: as many passes as there are layers, so a short text."""

PLANNED = Reading("calibration/all", 20, 128)
"""What a plan is chosen on: chosen on the 640 tokens of EACH_LAYER it wins nothing at 4 bits."""

LONG = Reading("evaluation/all", 5, 1024)
"""A cache looked at along its context: one long window of each kind of text."""

PROMPTS = Reading("evaluation/all", 40, 64)
"""What models write on: 40 prompts of 64 tokens."""
