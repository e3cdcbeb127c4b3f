"""What the Scheme duel says in rows and sentences: figures with intervals, and who differs from whom beyond chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from quantcore.lab.report import Table
from quantcore.measure.duel import FLOAT, Duel, short_label
from quantcore.measure.scores import Scores
from quantcore.measure.statistics import Interval
from ui.figures.duel import LETTERS
from ui.markdown import as_is
from ui.words.tokens import FAINT, FULL, quoted

MARKS = (
    "**▼** lower, which is better, **▲** higher, beyond chance: the 95% interval of the paired difference over windows "
    "of text leaves 0 out; **≈** not told apart. Percentages are the change of perplexity against the float model."
)
TAIL = ("p50", "p95", "p99", "largest")
TOLD_APART = "**Told apart?** Mean KL of the row's scheme minus the column's, nats."


def written(table: Table) -> pd.DataFrame:
    """The report's table for the eye."""
    return pd.DataFrame(
        {
            "scheme": row["scheme"],
            "bits, whole model": f"{row['bits a number']:.2f}",
            "bits, quantized": f"{row['bits a weight']:.2f}",
            "MB": f"{row['MB']:.2f}",
            "perplexity (95%)": f"{row['perplexity']:.2f} ({_ends(row)})",
            "vs float, 95% paired": _change(row),
            "KL mean, nats": f"{row['KL']:.4f}",
            "KL p50, p95, p99, max": ", ".join(f"{row[f'KL {one}']:.3g}" for one in TAIL),
            "same top-1": f"{row['same top-1']:.1%}",
            "make + read, s": f"{row['quantizing, s']:.1f} + {row['reading, s']:.1f}",
        }
        for row in table.records()
    ).set_index("scheme")


def pairs(duel: Duel) -> pd.DataFrame:
    """Every scheme (row) against every other (column): KL row - column, and whether it is more than chance."""
    texts = list(duel.reports)
    return pd.DataFrame(
        [["" if one == other else _bout(duel.kl_difference(one, other)) for other in texts] for one in texts],
        index=pd.Index(
            [f"{letter} {short_label(text)}" for letter, text in zip(LETTERS, texts, strict=False)], name=""
        ),
        columns=list(LETTERS[: len(texts)]),
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
    """The matrices that no scheme can quantize here, by name, with the reason; empty where there are none."""
    rows = next(iter(duel.layers.values()), ())
    left = {row.name: row.notes[0] for row in rows if row.scheme == FLOAT and row.notes}
    return "; ".join(f"`{name}` {note}" for name, note in left.items())


def verdict(duel: Duel) -> str:
    """The winner, and who cannot be told from it."""
    reports = duel.reports
    best = min(reports, key=lambda text: reports[text].kl)
    same = [text for text in reports if text != best and not duel.kl_difference(text, best).significant]
    cheap = min(reports, key=lambda text: reports[text].bytes)
    floats = next(iter(reports.values())).float_perplexity
    said = (
        f"**{short_label(best)}** is closest to the float model: KL {reports[best].kl:.4f} nats a token, perplexity "
        f"{reports[best].perplexity:.2f} against {floats:.2f}, and it would write the same next token "
        f"{reports[best].top1_agreement:.1%} of the time. "
    )
    if same:
        said += f"Not to be told from it on this text: {', '.join(short_label(text) for text in same)}. "
    if cheap != best:
        ratio = reports[cheap].kl / reports[best].kl if reports[best].kl else math.inf
        times = f"{ratio:.1f} times the KL" if math.isfinite(ratio) else "more KL"
        said += (
            f"The smallest, **{short_label(cheap)}**, takes {reports[cheap].bytes / 1e6:.1f} instead of "
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


def _bout(difference: Interval) -> str:
    return f"{_mark(difference)} {difference.value:+.4f}"


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
            said.append(f"{short_label(text)}: {worst} with {finite[worst]:.1f} dB")
    return "; ".join(said)
