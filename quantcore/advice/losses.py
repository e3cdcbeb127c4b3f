"""What a candidate loses, and how much may be lost.

A loss is measured on the model that is to be shipped, or it is `kin`'s: recorded on another model, fit for an order and
not for a limit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from quantcore.model.locate import ASSETS

KIN = ASSETS / "kin.json"


@dataclass(frozen=True)
class Tolerance:
    """How much may be lost: the words, and the limits that they mean."""

    words: str
    perplexity: float | None = None
    top1: float | None = None


TOLERANCES = {
    one.words: one
    for one in (
        Tolerance("perplexity + 1%", perplexity=0.01),
        Tolerance("perplexity + 3%", perplexity=0.03),
        Tolerance("perplexity + 10%", perplexity=0.10),
        Tolerance("same next token in 99 of 100", top1=0.99),
        Tolerance("same next token in 95 of 100", top1=0.95),
        Tolerance("whatever fits"),
    )
}


@dataclass(frozen=True)
class Loss:
    """KL in nats a token with its interval; `perplexity`: its relative change, at the upper end of the interval;
    `top1`: share of equal likeliest tokens. `on`: the model and the tokens; `own`: whether that is this model."""

    kl: float
    lo: float
    hi: float
    perplexity: float
    top1: float
    on: str
    own: bool = True

    def why_not(self, limit: Tolerance) -> str | None:
        if limit.perplexity is not None and self.perplexity > limit.perplexity:
            return f"perplexity rises by up to {self.perplexity:.1%}, more than {limit.perplexity:.0%}"
        if limit.top1 is not None and self.top1 < limit.top1:
            return f"the next token is the same in {self.top1:.1%}, fewer than {limit.top1:.0%}"
        return None


@lru_cache
def kin() -> dict[str, Loss]:
    """By candidate's name what it lost on the model that comes along."""
    content = json.loads(KIN.read_text(encoding="utf-8"))
    return {name: Loss(**figures, on=content["on"], own=False) for name, figures in content["losses"].items()}
