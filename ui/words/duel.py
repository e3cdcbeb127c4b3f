"""What the Scheme duel says in rows and sentences: figures with intervals, and who differs from whom beyond chance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pandas as pd
from torch import Tensor

from quantcore.measure.duel import FLOAT, Duel, short_label
from quantcore.measure.statistics import Interval
from ui.figures.duel import LETTERS
from ui.markdown import as_is
from ui.words.tokens import quoted

MARKS = (
    "**▼** lower, which is better, **▲** higher, beyond chance: the 95% interval of the paired difference over windows "
    "of text leaves 0 out; **≈** not told apart. Percentages are the change of perplexity against the float model."
)
TOLD_APART = "**Told apart?** Mean KL of the row's scheme minus the column's, nats."


def table(duel: Duel) -> pd.DataFrame:
    """One row a scheme, plain numbers; what the CSV holds."""
    rows = []
    for text, report in duel.reports.items():
        change = report.log_perplexity_change
        rows.append(
            {
                "scheme": short_label(text),
                "text": text,
                "bits per weight": report.bits_per_weight,
                "checkpoint bytes": report.bytes,
                "perplexity": report.perplexity,
                "perplexity lo": math.exp(report.log_perplexity.lo),
                "perplexity hi": _exp(report.log_perplexity.hi),
                "change of log perplexity": change.value,
                "change lo": change.lo,
                "change hi": change.hi,
                "significant": change.significant,
                "KL mean": report.kl,
                "KL p50": report.kl_p50,
                "KL p95": report.kl_p95,
                "KL p99": report.kl_p99,
                "KL max": report.kl_max,
                "same top-1": report.top1_agreement,
                "seconds to quantize": duel.quantize_s[text],
                "seconds to read": report.seconds,
                "measured": duel.made.get(text, "under way"),
            }
        )
    return pd.DataFrame(rows)


def written(duel: Duel) -> pd.DataFrame:
    """The table for the eye."""
    rows = []
    for text, report in duel.reports.items():
        tail = (report.kl_p50, report.kl_p95, report.kl_p99, report.kl_max)
        rows.append(
            {
                "scheme": short_label(text),
                "bits / weight": f"{report.bits_per_weight:.2f}",
                "MB": f"{report.bytes / 1e6:.2f}",
                "perplexity (95%)": f"{report.perplexity:.2f} ({_ends(report.log_perplexity)})",
                "vs float, 95% paired": _change(report.log_perplexity_change),
                "KL mean, nats": f"{report.kl:.4f}",
                "KL p50, p95, p99, max": ", ".join(f"{one:.3g}" for one in tail),
                "same top-1": f"{report.top1_agreement:.1%}",
                "make + read, s": f"{duel.quantize_s[text]:.1f} + {report.seconds:.1f}",
            }
        )
    return pd.DataFrame(rows).set_index("scheme")


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
    """How much the figures of a duel under way rest on."""
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


def as_json(duel: Duel, model_id: str, text_id: str) -> str:
    """Everything but the single tokens, for the download."""
    content: dict[str, Any] = {
        "model": model_id,
        "text": text_id,
        "schemes": {
            text: {
                "report": asdict(report),
                "layers": [asdict(row) for row in duel.layers[text]],
                "quantize_s": duel.quantize_s[text],
                "measured": duel.made[text],
            }
            for text, report in duel.reports.items()
        },
        "kl_differences": [
            {"scheme": one, "other": other, **asdict(duel.kl_difference(one, other))}
            for place, one in enumerate(duel.reports)
            for other in list(duel.reports)[place + 1 :]
        ],
    }
    return json.dumps(_finite(content), indent=2)


def hover(
    decode: Callable[[int], str], kl: float, ids: Tensor, chances: Tensor, ids_hat: Tensor, chances_hat: Tensor
) -> str:
    """The five likeliest next tokens of both models, for a token's tooltip."""

    def column(name: str, numbers: Tensor, values: Tensor) -> str:
        pairs = zip(numbers.tolist(), values.tolist(), strict=True)
        return f"{name}: " + ", ".join(f"{quoted(decode(i))} {p:.0%}" for i, p in pairs)

    return f"KL {kl:.3g} nats\n{column('float', ids, chances)}\n{column('quantized', ids_hat, chances_hat)}"


def guesses(decode: Callable[[int], str], rows: list[tuple[str, Tensor, Tensor]]) -> pd.DataFrame:
    """What each model finds likeliest in one place: its name, token ids and their probabilities; a row a model."""
    return pd.DataFrame(
        [
            [f"{as_is(quoted(decode(i)))} {p:.0%}" for i, p in zip(ids.tolist(), chances.tolist(), strict=True)]
            for _, ids, chances in rows
        ],
        index=pd.Index([name for name, _, _ in rows], name="likeliest"),
        columns=[f"{n + 1}" for n in range(len(rows[0][1]))],
    )


def _finite(value: Any) -> Any:
    """JSON has no infinity: it is written as a string."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _ends(log: Interval) -> str:
    return f"{math.exp(log.lo):.1f} to {_exp(log.hi):.1f}" if math.isfinite(log.lo) else "too few windows"


def _change(change: Interval) -> str:
    """A paired change of log perplexity as a percentage of the perplexity."""
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
