"""What the Scheme duel says in rows and sentences: figures with intervals, and who differs from whom beyond chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from quantcore.lab.report import Table
from quantcore.measure.duel import Duel, short_label
from quantcore.measure.kept_scores import FLOAT
from quantcore.measure.luck import JITTERS, Spread
from quantcore.measure.scores import Scores
from quantcore.measure.statistics import Interval
from quantcore.measure.told_apart import BY_TEXT, Apart, share_words, told_apart
from quantcore.numbers.digits import digits
from ui.markdown import as_is, code
from ui.words.digits import shown_kl, shown_tail
from ui.words.names import named
from ui.words.tokens import FAINT, FULL, quoted

LETTERS = "ABCDEF"  # short names of the schemes
MARKS = (
    "**▼** lower, which is better, **▲** higher, beyond the chance of the text (rounding luck not weighed): the "
    "95% interval of the paired difference over windows leaves 0 out; **≈** not told apart. Percentages are the change "
    "of perplexity against the float model. Of schemes that quantize activations, KL has two digits: another order of "
    "sums moves the third."
)
TAIL = ("p50", "p95", "p99", "largest")
TOLD_APART = (
    "**Told apart?** Mean KL of the row's scheme minus the column's, nats, and as a share of the column's KL. **▼** "
    "lower, **▲** higher: beyond the chance of the text and of rounding luck; **▽**, **△** beyond the text's interval, "
    "rounding luck not measured; **≈** within chance. Corrected for the number of pairs (Holm, 5% for all together)."
)


def written(table: Table) -> pd.DataFrame:
    """The report's table for the eye."""
    return pd.DataFrame(
        {
            "scheme": as_is(row["scheme"]),
            "bits, whole model": f"{row['bits a number']:.2f}",
            "bits, quantized": f"{row['bits a weight']:.3f}",
            "MB": f"{row['MB']:.2f}",
            "perplexity (95%)": f"{row['perplexity']:.2f} ({_ends(row)})",
            "vs float, 95% paired": _change(row),
            "KL mean, nats": shown_kl(row["text"], row["KL"]),
            "KL p50, p95, p99, max": ", ".join(shown_tail(row["text"], row[f"KL {one}"]) for one in TAIL),
            "same top-1": f"{row['same top-1']:.1%}",
            "make + read, s": f"{row['quantizing, s']:.1f} + {row['reading, s']:.1f}",
        }
        for row in table.records()
    ).set_index("scheme")


def pairs(duel: Duel, spreads: Mapping[str, Spread] | None = None) -> pd.DataFrame:
    """Every scheme (row) against every other (column): KL row - column, how much that is, and whether it is real."""
    texts, aparts = list(duel.reports), told_apart(duel, spreads)
    return pd.DataFrame(
        [["" if one == other else _bout(aparts[one, other]) for other in texts] for one in texts],
        index=pd.Index([f"{letter} {named(text)}" for letter, text in zip(LETTERS, texts, strict=False)], name=""),
        columns=list(LETTERS[: len(texts)]),
    )


def luck_words(duel: Duel, spreads: Mapping[str, Spread] | None) -> str:
    """What rounding luck alone does to these schemes, or that nobody has looked."""
    if spreads is None:
        return (
            "Rounding luck is not measured yet: a scheme whose scales are moved within half a 16-bit grain is the same "
            "scheme, and the chance of the text alone may call it another."
        )
    said = [
        f"{named(text)} ± {digits(spreads[text].deviation, 2)}"
        for text in duel.reports
        if text in spreads and spreads[text].freedom
    ]
    none = [named(text) for text in duel.reports if text not in spreads or not spreads[text].freedom]
    tail = f" Not measured: {', '.join(none)}." if none else ""
    return (
        f"Rounding luck, standard deviation of the KL over {JITTERS} moves of the scales within half a 16-bit grain: "
        f"{', '.join(said)}. A difference is real only beyond this and the chance of the text together.{tail}"
    )


def so_far(duel: Duel, tokens: int) -> str:
    """How much the figures of a duel under way rest on; nothing where there are none yet."""
    if not duel.reports:
        return ""
    read = next(iter(duel.reports.values())).tokens
    if read < tokens:
        return f"**So far**, after {read:,} tokens:"
    return f"**So far**, {len(duel.reports)} schemes:"


def left_float(duel: Duel) -> str:
    """The matrices that no scheme can quantize here, with the reason: the first of each reason by name, and how many
    more (a tower for pictures has hundreds); empty where there are none."""
    rows = next(iter(duel.layers.values()), ())
    left: dict[str, list[str]] = {}
    for row in rows:
        if row.scheme == FLOAT and row.notes:
            left.setdefault(row.notes[0], []).append(row.name)
    rest = {note: f" and {len(names) - 1} more" if len(names) > 1 else "" for note, names in left.items()}
    return "; ".join(f"{code(names[0])}{rest[note]} {note}" for note, names in left.items())


def verdict(duel: Duel, spreads: Mapping[str, Spread] | None = None) -> str:
    """The winner, and who cannot be told from it."""
    reports, aparts = duel.reports, told_apart(duel, spreads)
    best = min(reports, key=lambda text: reports[text].kl)
    same = [text for text in reports if text != best and not aparts[text, best].beyond]
    unsure = [text for text in reports if text != best and aparts[text, best].verdict == BY_TEXT]
    cheap = min(reports, key=lambda text: reports[text].bytes)
    floats = next(iter(reports.values())).float_perplexity
    said = (
        f"**{named(best)}** is closest to the float model: KL {shown_kl(best, reports[best].kl)} nats a token, "
        f"perplexity {reports[best].perplexity:.2f} against {floats:.2f}, and it would write the same next token "
        f"{reports[best].top1_agreement:.1%} of the time. "
    )
    if same:
        sizes = (f"{named(text)} ({_percent(aparts[text, best].share)})" for text in same)
        said += f"Not to be told from it on this text: {', '.join(sizes)}. "
    if unsure:
        said += f"Worse: {', '.join(map(named, unsure))} ({BY_TEXT}). "
    if cheap != best:
        ratio = reports[cheap].kl / reports[best].kl if reports[best].kl else math.inf
        times = f"{digits(ratio, 2)} times the KL" if math.isfinite(ratio) else "more KL"
        said += (
            f"The smallest, **{named(cheap)}**, takes {reports[cheap].bytes / 1e6:.1f} instead of "
            f"{reports[best].bytes / 1e6:.1f} MB for {times}."
        )
    return said


def window_words(window: int, count: int) -> str:
    return (
        f"Window {window} of {count}. The tint of a token is the KL of the two predictions of it ({FAINT:g} nats: "
        f"none, {FULL:g}: full); hold the pointer on a token for the five likeliest of both models."
    )


def hovers(decode: Callable[[int], str], found: Duel, scheme: str, window: int) -> list[str]:
    """For each token of a window its tooltip: the five likeliest next tokens of both models."""
    scores, floats = found.scores[scheme], found.float_scores

    def column(name: str, one: Scores, t: int) -> str:
        pairs = zip(one.likeliest[window, t].tolist(), one.probabilities[window, t].tolist(), strict=True)
        return f"{name}: " + ", ".join(f"{quoted(decode(i))} {p:.0%}" for i, p in pairs)

    return ["the first token: nothing before it, nothing to predict"] + [
        f"KL {float(scores.kl[window, t]):.3g} nats\n{column('float', floats, t)}\n{column('quantized', scores, t)}"
        for t in range(scores.kl.shape[1])
    ]


def guesses(decode: Callable[[int], str], found: Duel, scheme: str, window: int, place: int) -> pd.DataFrame:
    """What both models find likeliest in one place; a row a model."""
    rows = {"float": found.float_scores, short_label(scheme): found.scores[scheme]}
    cells = [
        [
            f"{as_is(quoted(decode(i)))} {p:.0%}"
            for i, p in zip(
                one.likeliest[window, place].tolist(), one.probabilities[window, place].tolist(), strict=True
            )
        ]
        for one in rows.values()
    ]
    return pd.DataFrame(
        cells, index=pd.Index(list(rows), name="likeliest"), columns=[f"{n + 1}" for n in range(len(cells[0]))]
    )


def _ends(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["change from"]):
        return "too few windows"
    return f"{row['perplexity from']:.1f} to {row['perplexity to']:.1f}"


def _change(row: Mapping[str, Any]) -> str:
    """A paired change of log perplexity as a percentage of the perplexity."""
    change = Interval(row["change of log perplexity"], row["change from"], row["change to"])
    value = f"{100 * math.expm1(change.value):+.2f}%"
    if change.value == change.lo == change.hi == 0:
        return "exactly equal"
    if not math.isfinite(change.lo):
        return f"{value}, too few windows"
    ends = f"{100 * math.expm1(change.lo):+.2f} to {100 * math.expm1(change.hi):+.2f}"
    return f"{_mark(change)} {value} ({ends})"


def _bout(apart: Apart) -> str:
    lower, higher = "▼▲" if apart.real else "▽△"
    mark = "≈" if not apart.beyond else lower if apart.difference.value < 0 else higher
    luck = "" if apart.luck is None else f"; luck alone ± {digits(apart.luck, 2)}"
    return f"{mark} {digits(apart.difference.value, 2, '+')} ({_percent(apart.share)}{luck})"


def _percent(share: float | None) -> str:
    if share is None:
        return "of 0"
    return share_words(share)


def _mark(difference: Interval) -> str:
    """Better (lower) or worse beyond chance, or neither."""
    if not difference.significant:
        return "≈"
    return "▼" if difference.value < 0 else "▲"


def worst_layers(found: Duel) -> str:
    """Of each scheme the layer whose output suffers most."""
    said = []
    for text, rows in found.layers.items():
        measured = {row.name: row.output_sqnr_db for row in rows if row.output_sqnr_db is not None}
        finite = {name: sqnr for name, sqnr in measured.items() if math.isfinite(sqnr)}
        if finite:
            worst = min(finite, key=lambda name: finite[name])
            said.append(f"{short_label(text)}: {worst} with {finite[worst]:z.1f} dB")
    return "; ".join(said)
