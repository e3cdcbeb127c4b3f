"""Facts placed early and asked late: does a coded KV cache still find them?

    found = retrieval(model, {"kv:int8/token": (spec, scales)}, haystacks(tokenizer, tokens))
    found.said["kv:int8/token"]     (windows, FACTS): log p of the answer, nats
    found.named["kv:int8/token"]    (windows, FACTS): whether each of its tokens is the likeliest
    found.gain(FLOAT)               nats that the fact is worth; where that is none, the rest says nothing

FACTS sentences, "The secret number of Anna is 48213.", stand in each window of real text, evenly spread, and behind
the window all of them are asked, in another order: the question is the sentence up to the number. Nobody can guess a
random number of five digits, so its log p says whether it was found in the cache. Behind each question stands its true
answer, so that every question meets the same text, whatever was said before. Where the model does not find the facts,
the answers are as likely when the facts say other numbers: so the float model reads each window once more, with facts
that say others.

Small models may not find them at all: the float cache's gain over those windows says so.
Source: Kamradt 2023, Needle in a haystack (github.com/gkamradt/LLMTest_NeedleInAHaystack); several facts at once and
their place along the context as in Hsieh et al. 2024, arXiv:2404.06654 (RULER).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantcore.measure.statistics import Interval, mean_interval
from quantcore.pipeline.calibration import Progress
from quantcore.studies.context_lens import FLOAT, PIECE, Caches, log_p_of
from quantcore.text.pieces import ids_of

FACTS = 4  # a window
NAMES = ("Anna", "Peter", "Maria", "Thomas", "Laura", "George", "Helen", "Simon")
QUESTION, ANSWER, END = "\nThe secret number of {} is", " {}", ".\n"


@dataclass(frozen=True)
class Haystack:
    """A window with facts and the questions behind it.

    tokens    (T,): text, facts, questions and answers
    answers   of each fact, in the order of their places: where the tokens of its answer stand in `tokens`
    back      of each, how many tokens its number stands before its answer"""

    tokens: Tensor
    answers: tuple[range, ...]
    back: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """said, named   by cache, FLOAT among them, (windows, FACTS), by the facts' places from the first to the last
    misled           (windows, FACTS): log p of the answers where the facts say other numbers, floats in the cache
    back             (windows, FACTS): how many tokens before the question the fact stands"""

    said: dict[str, Tensor]
    named: dict[str, Tensor]
    misled: Tensor
    back: Tensor

    def gain(self, name: str) -> Interval:
        """How much likelier the answers are than where the facts say other numbers, nats an answer, over windows."""
        return mean_interval((self.said[name] - self.misled).double().mean(1).numpy())

    def lost(self, name: str) -> Interval:
        """What of float's log p is lost, nats an answer, window by window against float's own."""
        return mean_interval((self.said[FLOAT] - self.said[name]).double().mean(1).numpy())

    def share(self, name: str) -> float:
        """Of the answers, those that greedy decoding would say."""
        return float(self.named[name].double().mean())

    @property
    def finds(self) -> bool:
        """Whether the float model itself finds facts: beyond chance, its answers are likelier than for others."""
        return self.gain(FLOAT).lo > 0

    @property
    def asked(self) -> int:
        return int(self.misled.numel())


def haystacks(tokenizer: Any, tokens: Tensor, seed: int = 0) -> list[tuple[Haystack, Haystack]]:
    """Each window of (windows, T), cut at its end so that it has room for facts and questions; then the same window
    with the same questions and answers, but facts of other numbers.

    Raises: ValueError for windows of which facts and questions would leave less than a half."""
    return [
        _haystack(tokenizer, window.tolist(), random.Random(f"{seed} {number}")) for number, window in enumerate(tokens)
    ]


def _haystack(tokenizer: Any, text: list[int], chance: random.Random) -> tuple[Haystack, Haystack]:
    def ids(words: str) -> list[int]:
        return list(ids_of(tokenizer, [words]))

    questions = [ids(QUESTION.format(name)) for name in chance.sample(NAMES, FACTS)]
    numbers = [ids(ANSWER.format(one)) for one in chance.sample(range(10_000, 100_000), 2 * FACTS)]
    answers, others, end = numbers[:FACTS], numbers[FACTS:], ids(END)
    order = chance.sample(range(FACTS), FACTS)
    asked = [one for fact in order for one in (questions[fact], answers[fact], end)]
    added = sum(map(len, asked)) + max(sum(map(len, [*questions, *each, *[end] * FACTS])) for each in (answers, others))
    if 2 * added > len(text):
        raise ValueError(
            f"{FACTS} facts and their questions are {added} tokens, more than half of a window of {len(text)}; take "
            f"windows of {2 * added} or more"
        )
    text = text[: len(text) - added]

    def with_facts(told: list[list[int]]) -> Haystack:
        found, places, first = list[int](), list[int](), 0
        for fact in range(FACTS):
            stop = len(text) * (2 * fact + 1) // (2 * FACTS)
            found += text[first:stop] + questions[fact]
            places.append(len(found))
            found += told[fact] + end
            first = stop
        found += text[first:]
        spans: dict[int, range] = {}
        for fact in order:
            found += questions[fact]
            spans[fact] = range(len(found), len(found) + len(answers[fact]))
            found += answers[fact] + end
        spans = {fact: spans[fact] for fact in range(FACTS)}
        back = tuple(span.start - places[fact] for fact, span in spans.items())
        return Haystack(torch.tensor(found), tuple(spans.values()), back)

    return with_facts(answers), with_facts(others)


def retrieval(
    model: Any,
    caches: Caches,
    windows: Sequence[tuple[Haystack, Haystack]],
    progress: Progress | None = None,
    so_far: Callable[[Retrieval], None] | None = None,
) -> Retrieval:
    """Each cache beside one of floats, window by window of `haystacks`. `so_far` hears what those read by then say.

    Raises: ValueError for no cache or no window, and as `coded_cache`."""
    if not caches or not windows:
        raise ValueError(f"{len(caches)} caches and {len(windows)} windows say nothing; give at least one of each")
    asked: Caches = {FLOAT: (None, {}), **caches}
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in asked}
    misled: list[Tensor] = []
    for number, (window, other) in enumerate(windows):
        for place, (name, one) in enumerate(asked.items()):
            rows[name].append(_read(model, one, window))
            if progress:
                share = (number + (place + 1) / (len(asked) + 1)) / len(windows)
                progress(share, f"window {number + 1} of {len(windows)}")
        misled.append(_read(model, asked[FLOAT], other)[0])
        if progress:
            progress((number + 1) / len(windows), f"window {number + 1} of {len(windows)}")
        if so_far and number + 1 < len(windows):
            so_far(_retrieval(rows, misled, windows[: number + 1]))
    return _retrieval(rows, misled, windows)


def _retrieval(
    rows: Mapping[str, list[tuple[Tensor, Tensor]]], misled: list[Tensor], windows: Sequence[tuple[Haystack, Haystack]]
) -> Retrieval:
    said, named = ({name: torch.stack([one[part] for one in its]) for name, its in rows.items()} for part in (0, 1))
    return Retrieval(said, named, torch.stack(misled), torch.tensor([one.back for one, _ in windows]))


def _read(model: Any, one: Any, window: Haystack) -> tuple[Tensor, Tensor]:
    """Of each answer log p, and whether all of its tokens are the likeliest, (FACTS,) on the CPU."""
    from quantcore.pipeline.cache import coded_cache

    cache = coded_cache(model.config, *one)
    device = next(model.parameters()).device
    tokens = window.tokens.to(device)
    wanted = {at for span in window.answers for at in span}
    log_p, best = dict[int, Tensor](), dict[int, Tensor]()
    for start in range(0, len(tokens), PIECE):
        piece = log_p_of(model, tokens[None, start : start + PIECE], cache)[0]
        for at in wanted & set(range(start + 1, start + len(piece) + 1)):  # each is told by the token before it
            own = piece[at - 1 - start]
            log_p[at], best[at] = own[tokens[at]], own.argmax() == tokens[at]
    said = torch.stack([torch.stack([log_p[at] for at in span]).sum() for span in window.answers])
    named = torch.stack([torch.stack([best[at] for at in span]).all() for span in window.answers])
    return said.cpu(), named.cpu()
