"""What the first page says in words."""

from __future__ import annotations

from quantcore.numbers.digits import digits
from quantcore.studies.next_tokens import NextTokens
from quantcore.studies.row import RowStudy


def headline(bits: int, row: RowStudy, report: NextTokens | None) -> str:
    """What the bits cost a row and, once the model was quantized, the next token."""
    said = f"**{bits} bits** set **{row.zeros:.1%}** of this row's weights to 0"
    if report is None:
        return f"{said}."
    verdict = "stays the likeliest" if report.same_first else "is the likeliest no more"
    first = report.likeliest[0].text.replace("`", "'")
    moved = f"in the whole model they move the next token's chances by **{digits(report.kl)} nats**"
    return f"{said}; {moved}, and `{first}` {verdict}."


def row_words(row: RowStudy, loudest: RowStudy, scheme: str, layer: str) -> str:
    return (
        f"`{scheme}`: each row of each Linear (but lm_head) gets {len(row.levels)} levels, here **{row.step:.3g}** "
        f"apart. All {row.columns:,} weights of row {row.row} of `{layer}` take **{row.used}** of them; "
        f"**{row.zeros:.1%}** become exactly 0. In row {loudest.row}, where one weight stands out most, "
        f"**{loudest.zeros:.1%}** do."
    )


def tokens_words(report: NextTokens, name: str) -> str:
    verdict = "Both models write the **same** next token" if report.same_first else "The next token is **another one**"
    cut = f" The context holds {report.tokens:,} tokens, so the first {report.dropped:,} were cut."
    return (
        f"{verdict}; **{report.shared} of {len(report.likeliest)}** likeliest tokens are on both lists. "
        f"KL(float || {name}) = **{digits(report.kl)}** nats (0: nothing changed).{cut if report.dropped else ''}"
    )
