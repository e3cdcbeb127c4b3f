"""What the page Rules, tested says of a verdict and of what it rests on."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from quantcore.lab.lab import Lab
from quantcore.measure.duel import short_label
from quantcore.measure.luck import USUAL
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, LEADS, TRAILS, UNCHALLENGED, Bout, Rule, RuleResult
from quantcore.measure.told_apart import BY_TEXT, share_words
from quantcore.numbers.digits import digits
from ui.words.luck import luck_alone

MARKS = {
    HOLDS: ":green[**✓ holds**]",
    FAILS: ":red[**✗ does not hold here**]",
    LEADS: f":gray[**leads**], {BY_TEXT}",
    TRAILS: f":gray[**trails**], {BY_TEXT}",
    EQUAL: ":gray[**≈ no significant difference**]",
    UNCHALLENGED: ":gray[**not challenged: what one would do otherwise cannot be built here**]",
}


CLEAN = {
    HOLDS: "held",
    FAILS: "did not hold here",
    LEADS: "led beyond the text's interval (rounding luck not measured)",
    TRAILS: "trailed beyond the text's interval (rounding luck not measured)",
    EQUAL: "made no difference beyond chance",
}


def headline(results: Mapping[str, RuleResult], count: int) -> str:
    """How the rules that were run came out."""
    verdicts = [one.verdict for one in results.values()]
    ran = [f"**{verdicts.count(verdict)}** {said}" for verdict, said in CLEAN.items() if verdict in verdicts]
    if UNCHALLENGED in verdicts:
        ran.append(f"**{verdicts.count(UNCHALLENGED)}** had no rival that can be built")
    rest = f"; {count - len(verdicts)} wait below" if count > len(verdicts) else ""
    return f"Of {len(verdicts)} rule{'s' * (len(verdicts) > 1)} run on this model {', '.join(ran)}{rest}."


def spelled(text: str, lab: Lab) -> str:
    """A scheme in full as this model has it; as it is where it can be none."""
    try:
        return str(lab.plan_of(text))
    except ValueError:
        return text


def verdict(rule: Rule, result: RuleResult) -> str:
    return f"{MARKS[result.verdict]}{f' - {rule.when_equal}' if result.verdict == EQUAL else ''}"


def bout_words(bout: Bout) -> str:
    if bout.apart is None:
        return f"`{bout.challenger}` cannot be built: {bout.refused}"
    difference, share = bout.apart.difference, bout.apart.share
    how = bout.apart.verdict
    if how == BY_TEXT and share is not None and abs(share) < USUAL:
        how += f", and below {USUAL:.0%}, which luck alone may make"
    size = "" if share is None else f", **{share_words(share, 3)}**{' of' * (share < 1)} its KL"
    return (
        f"KL {digits(difference.value, 3, '+')} nats against `{short_label(bout.challenger, 60)}`{size}: {how} "
        f"(95%: {digits(difference.lo, 3, '+')} to {digits(difference.hi, 3, '+')}{luck_alone(bout.apart)})"
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
            "KL difference": None if bout.apart is None else bout.apart.difference.value,
            "of the challenger's KL": None if bout.apart is None else bout.apart.share,
            "lo": None if bout.apart is None else bout.apart.difference.lo,
            "hi": None if bout.apart is None else bout.apart.difference.hi,
            "luck alone, ±": None if bout.apart is None else bout.apart.luck,
            "told apart": None if bout.apart is None else bout.apart.verdict,
            "p, all challengers": None if bout.apart is None else bout.apart.p,
            "refused": bout.refused,
        }
        for key, result in results.items()
        for bout in result.bouts
    )
