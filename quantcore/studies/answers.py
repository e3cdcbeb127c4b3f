"""How long do greedy answers stay the float model's? Many prompts, each written on by both models, word for word.

    found = greedy_answers(loaded, {"W4A16": quantized}, prompts, 32)
    found.share("W4A16")            the share of answers that part within 32 tokens, with its 95% interval
    found.alike("W4A16")            after 0, 1, ... 32 tokens, the share that is still the same

KL speaks of the next token alone. Who reads an answer sees what adds up: at the first token that differs the answers
part, and what follows stands on other words. An answer ends at the end mark; what would follow it is not compared.
Interval of a share: Wilson 1927, Probable inference, the law of succession, and statistical inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from quantcore.pipeline.calibration import Progress, part_of
from quantcore.studies.generation import AT_ONCE, parts_at, written_on

Z = 1.959964  # of a 95% interval


@dataclass(frozen=True)
class Answers:
    """prompts, wrote   each prompt and the float model's answer, as tokens; wrote_hat: by scheme, the quantized one's
    parted              by scheme, for each prompt the index of the first token that differs, None where none does
    count               tokens an answer has at most"""

    prompts: tuple[tuple[int, ...], ...]
    wrote: tuple[tuple[int, ...], ...]
    wrote_hat: dict[str, tuple[tuple[int, ...], ...]]
    parted: dict[str, tuple[int | None, ...]]
    count: int

    def alike(self, scheme: str) -> list[float]:
        """After 0 to `count` tokens the share of answers that are the float model's, word for word."""
        places = self.parted[scheme]
        return [sum(at is None or at >= done for at in places) / len(places) for done in range(self.count + 1)]

    def share(self, scheme: str) -> tuple[float, float, float]:
        """The share of answers that part, and its interval."""
        places = self.parted[scheme]
        return wilson(sum(at is not None for at in places), len(places))


def wilson(hits: int, of: int) -> tuple[float, float, float]:
    """hits / of, and the 95% interval in which such a share lies. Source: Wilson 1927."""
    share, spread = hits / of, Z * Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def greedy_answers(
    model: nn.Module,
    quantized: Callable[[str, Progress | None], nn.Module],
    schemes: tuple[str, ...],
    prompts: Tensor,
    count: int,
    ends: set[int | None],
    progress: Progress | None = None,
) -> Answers:
    """Each scheme's answers beside the float model's; `quantized` makes the copy under a scheme, one at a time.

    prompts (P, T). Raises: ValueError for no prompts, or no tokens to write."""
    if not len(prompts) or count < 1:
        raise ValueError(f"{len(prompts)} prompts and {count} tokens are no answers; give at least one of each")
    stages, steps = len(schemes) + 1, count * -(-len(prompts) // AT_ONCE)

    def written(who: Any, tell: Progress | None) -> tuple[tuple[int, ...], ...]:
        return written_on(who, prompts, count, ends, lambda done: tell(done / steps, f"step {done}") if tell else None)

    wrote = written(model, part_of(progress, 0, stages, "float"))
    theirs: dict[str, tuple[tuple[int, ...], ...]] = {}
    for place, scheme in enumerate(schemes):
        tell = part_of(progress, place + 1, stages, scheme)
        copy = quantized(scheme, part_of(tell, 0, 2))
        theirs[scheme] = written(copy, part_of(tell, 1, 2))
    return Answers(
        prompts=tuple(map(tuple, prompts.tolist())),
        wrote=wrote,
        wrote_hat=theirs,
        parted={
            scheme: tuple(parts_at(a, b) for a, b in zip(wrote, answers, strict=True))
            for scheme, answers in theirs.items()
        },
        count=count,
    )
