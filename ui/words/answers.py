"""What is said of greedy answers that part, and of votes on them."""

from __future__ import annotations

from collections.abc import Sequence

from quantcore.measure.duel import short_label
from quantcore.studies.answers import Answers
from ui.markdown import as_is

HEADER = "How soon do answers part?"
WHY = (
    "KL looks at one next token. An answer is many: both models write on greedily, and from the first token that "
    "differs on the answers are different ones. Another answer need not be a worse one: vote below, blind."
)
FLOAT, SCHEME, NEITHER = "float", "scheme", "no difference"  # what a vote was for


def headline(found: Answers) -> str:
    """The scheme whose answers stay float's longest, and the one that parts from them most."""
    shares = {scheme: found.share(scheme) for scheme in found.parted}
    ordered = sorted(shares, key=lambda scheme: shares[scheme][0])
    said = [_share(scheme, shares[scheme]) for scheme in dict.fromkeys([ordered[0], ordered[-1]])]
    return f"Within {found.count} tokens of greedy writing, {', '.join(said)} part from the float model's."


def _share(scheme: str, share: tuple[float, float, float]) -> str:
    value, lo, hi = share
    return f"**{value:.0%}** of {as_is(short_label(scheme))}'s answers (95%: {lo:.0%} to {hi:.0%})"


def rows(found: Answers) -> list[dict[str, str]]:
    """One row a scheme, for the table."""
    table = []
    for scheme, places in found.parted.items():
        share, lo, hi = found.share(scheme)
        parted = sorted(at for at in places if at is not None)
        table.append(
            {
                "scheme": short_label(scheme),
                "part": f"{len(parted)} of {len(places)}, {share:.0%} ({lo:.0%} to {hi:.0%})",
                "half of those by token": str(parted[(len(parted) - 1) // 2] + 1) if parted else "",
            }
        )
    return table


def tally(votes: Sequence[str], scheme: str) -> str:
    """What the votes say so far: a sign test on those that found a difference."""
    from scipy.stats import binomtest  # 0.5 s to import: only who votes pays it

    if not votes:
        return ""
    ours, theirs = votes.count(SCHEME), votes.count(FLOAT)
    name = as_is(short_label(scheme))
    said = f"{len(votes)} votes: float {theirs}, {name} {ours}, no difference {votes.count(NEITHER)}."
    if not ours + theirs:
        return said
    p = float(binomtest(ours, ours + theirs).pvalue)
    return said + (f" Beyond chance (p {p:.2g})." if p < 0.05 else f" Within chance (p {p:.2g}).")
