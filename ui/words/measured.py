"""Words of the page What has been measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import pandas as pd

from quantcore.measure.duel import short_label
from quantcore.measure.luck import Spread
from quantcore.measure.measured import Measured, frontier
from quantcore.measure.told_apart import Apart, share_words
from quantcore.numbers.digits import digits
from quantcore.text.reading import ALL, Reading
from ui.markdown import as_is
from ui.words.digits import shown_kl
from ui.words.luck import luck_alone
from ui.words.names import by_name, pair


def text_name(rows: Sequence[Measured], reading: str | None) -> str:
    """A text has no name in the store: what its `reading` is called where it is one of ours, else its hash; how much of
    it was read, and how many schemes."""
    kind = Reading.parse(reading).source.partition("/")[2] if reading else ""
    called = "our evaluation text" if kind == ALL else f"our {kind} text"
    name = called if reading else f"another text or cut, {rows[0].text_hash[:6]}"
    return f"{name}: {rows[0].report.tokens:,} tokens, {len(rows)} scheme{'s' * (len(rows) > 1)}"


def with_all(rows: Sequence[Measured], words: str) -> list[Measured]:
    """Those that have every word in their scheme's text or in its preset's name."""
    wanted = words.lower().split()
    return [row for row in rows if all(one in f"{row.scheme} {short_label(row.scheme)}".lower() for one in wanted)]


def headline(rows: Sequence[Measured], only: str = "") -> str:
    """only: the words that all of them have."""
    best = frontier(rows)
    least = min(rows, key=lambda one: one.report.kl)
    kl, megabytes = shown_kl(least.scheme, least.report.kl), least.report.bytes / 1e6
    named = f"`{short_label(least.scheme)}`, {kl} nats a token in {megabytes:,.1f} MB."
    those = f" with {as_is(' '.join(only.split()))}" if only.strip() else ""
    if len(rows) == 1:
        return f"**1 scheme**{those} on these windows: {named}"
    return (
        f"**{len(rows)} schemes**{those} on these windows; of **{len(best)}** no other is smaller and no worse. The "
        f"smallest KL: {named}"
    )


def rows_key(rows: Sequence[Measured]) -> str:
    """What a table of these rows, in this order, is called."""
    return f"rows {crc32(' '.join(row.key for row in rows).encode()):08x}"


def short_table(rows: Sequence[Measured], spreads: Mapping[str, Spread]) -> pd.DataFrame:
    """What schemes on one text are chosen by: as many columns as a narrow window holds, named as in the picture."""
    luck = ["luck ±"] * any(row.key in spreads for row in rows)
    chosen = table(rows, spreads)[["scheme", "KL", *luck, "same token, %", "perplexity", "MB", "bits a weight"]]
    names = list(by_name((row.scheme for row in rows), 60))
    return chosen.assign(scheme=names, KL=[float(shown_kl(row.scheme, row.report.kl)) for row in rows])


def alike(rows: Sequence[Measured]) -> str:
    """What schemes on one text have in common, and where the rest is said."""
    unnamed = "A point without a name has it on hover."
    return (
        f"Float's perplexity: {rows[0].report.float_perplexity:.2f}. {unnamed} When and where each was measured, and "
        "how long quantizing took, stands in The numbers below."
    )


def table(rows: Sequence[Measured], spreads: Mapping[str, Spread]) -> pd.DataFrame:
    """A row a scheme; spreads: of rounding luck, by a row's key."""
    return pd.DataFrame(
        [
            {
                "scheme": row.scheme,
                "KL": row.report.kl,
                "luck ±": spreads[row.key].deviation if row.key in spreads else None,
                "same token, %": 100 * row.report.top1_agreement,
                "perplexity": row.report.perplexity,
                "float": row.report.float_perplexity,
                "MB": row.report.bytes / 1e6,
                "bits a weight": row.report.bits_per_weight,
                "quantize, s": row.quantize_s,
                "tokens": row.report.tokens,
                "measured (UTC)": row.made.replace("T", " ")[:16],
                "on": row.report.device,
                "text": row.text_hash[:6],
            }
            for row in rows
        ]
    )


def difference(one: Measured, other: Measured, apart: Apart) -> str:
    """One pair, over the windows that both have read."""
    first, second = pair(one.scheme, other.scheme)
    names = f"`{first}` − `{second}`"
    size = "" if apart.share is None else f", **{share_words(apart.share)}**"
    ends = f"{digits(apart.difference.lo, 2, '+')} to {digits(apart.difference.hi, 2, '+')}{luck_alone(apart)}"
    return f"{names}: KL {digits(apart.difference.value, 2, '+')} nats a token{size} ({ends}): {apart.verdict}"
