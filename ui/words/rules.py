"""What the page Rules, tested says of a verdict and of what it rests on."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from quantcore.measure.duel import short_label
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, Bout, Rule, RuleResult

MARKS = {
    HOLDS: ":green[**✓ holds**]",
    FAILS: ":red[**✗ does not hold here**]",
    EQUAL: ":gray[**≈ no significant difference**]",
}


def verdict(rule: Rule, result: RuleResult) -> str:
    return f"{MARKS[result.verdict]}{f' - {rule.when_equal}' if result.verdict == EQUAL else ''}"


def bout_words(bout: Bout) -> str:
    if bout.difference is None:
        return f"`{bout.challenger}` cannot be built: {bout.refused}"
    difference = bout.difference
    how = "beyond chance" if difference.significant else "within chance"
    return (
        f"KL {difference.value:+.4g} nats against `{short_label(bout.challenger, 60)}`, {how} "
        f"(95%: {difference.lo:+.3g} to {difference.hi:+.3g})"
    )


def alt(result: RuleResult) -> str:
    return f"{result.verdict}: {'; '.join(bout_words(bout) for bout in result.bouts)}".replace("`", "")


def table(results: Mapping[str, RuleResult]) -> pd.DataFrame:
    """A row a challenger, plain numbers."""
    return pd.DataFrame(
        {
            "rule": key,
            "verdict": result.verdict,
            "challenger": bout.challenger,
            "KL difference": None if bout.difference is None else bout.difference.value,
            "lo": None if bout.difference is None else bout.difference.lo,
            "hi": None if bout.difference is None else bout.difference.hi,
            "refused": bout.refused,
        }
        for key, result in results.items()
        for bout in result.bouts
    )
