"""A duel or a layer as a document: the numbers, what pictures of them show, and all that is needed to get them again.

document = duel_document(found, facts)
Path("report.html").write_text(to_html(document), encoding="utf-8")        `report_html`
json.dumps(plain(document))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from quantcore.measure.duel import Duel, short_label
from quantcore.measure.luck import Spread
from quantcore.measure.statistics import FEWEST_WINDOWS, LEVEL, RESAMPLES, Interval, window_interval
from quantcore.measure.told_apart import share_words, told_apart
from quantcore.model.machine import versions
from quantcore.numbers.digits import digits
from quantcore.studies.experts import tokens_by_expert
from quantcore.studies.layer import LayerStudy

BINS = 128
CONVENTIONS = (
    "Perplexity: exp of the mean negative log-likelihood of the tokens 2.. of every window; windows do not overlap; "
    "per token, not per word.",
    "KL: sum over the vocabulary of p log(p / q), p the float model, q the quantized one, nats, mean over predicted "
    "tokens.",
    f"Intervals: {LEVEL:.0%}, bootstrap-t over whole windows, {RESAMPLES} resamples from a fixed seed; differences are "
    f"paired window by window; infinite ends mean fewer than {FEWEST_WINDOWS} windows.",
    "Codes: q = clamp(round(x / s) + z, qmin, qmax), half to even; x_hat = s (q - z).",
    "Symmetric scale: absmax / ((qmax - qmin) / 2), 127.5 for int8, 7.5 for int4, 448 for fp8 e4m3; asymmetric: "
    "(max - min) / (qmax - qmin); a range always holds 0; a tile of zeros has scale 1; scales are float32.",
    "Bytes: codes, 16-bit scales, zero points and float tensors at 16 bits, as in a checkpoint. Bits a number: of the "
    "whole model, embeddings and all that stays float; bits a weight: of the quantized weights alone.",
    "SQNR: 10 log10(sum x^2 / sum (x_hat - x)^2), dB; 6.02 dB are one bit.",
    "GPTQ: columns one after another, errors pushed on through X^T X of the calibration inputs, block behind block.",
)


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns; `folded` tables open on a click."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    folded: bool = False

    def records(self) -> list[dict[str, Any]]:
        """A row as column -> value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Intervals:
    """A picture: (label, value, lo, hi) on one axis."""

    title: str
    unit: str
    rows: tuple[tuple[str, float, float, float], ...]


@dataclass(frozen=True)
class Histograms:
    """A picture: counts by name over the same edges."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Document:
    """sentences: what was found. facts: model, texts, hashes, seed, device, command: what is needed to do it again."""

    title: str
    sentences: tuple[str, ...]
    pictures: tuple[Intervals | Histograms, ...]
    tables: tuple[Table, ...]
    facts: dict[str, Any]
    conventions: tuple[str, ...]
    versions: dict[str, str]
    made: str


def duel_document(found: Duel, facts: Mapping[str, Any], spreads: Mapping[str, Spread] | None = None) -> Document:
    """Several schemes beside the float model on one text; with their rounding luck where it was measured."""
    kl = {text: window_interval(found.scores[text].kl) for text in found.reports}
    changes = {text: report.log_perplexity_change for text, report in found.reports.items()}
    return _document(
        f"{len(found.reports)} schemes on {facts.get('model', 'a model')}",
        _duel_sentences(found, kl, spreads),
        (
            _intervals("KL from the float model", "KL, nats per token", kl),
            _intervals("Change of log perplexity against float, paired", "nats per token", changes),
        ),
        (duel_table(found, spreads), _pair_table(found, spreads), *_layer_tables(found)),
        facts,
    )


def layer_document(study: LayerStudy, name: str, facts: Mapping[str, Any]) -> Document:
    """One layer under one scheme."""
    errors = ("weight", "input", "output", "weights_alone", "activations_alone")
    rows = tuple((error, *getattr(study, error)) for error in errors)
    worst = study.channel_error.topk(min(10, len(study.channel_error))).indices.tolist()
    channels = tuple((row, float(study.channel_error[row]), float(study.channel_size[row])) for row in worst)
    before, after, error = study.weight_before, study.weight_after, study.weight_error
    sentences = (
        f"{name}, {study.shape[0]} x {study.shape[1]}, takes {study.bits_per_weight:.4g} bits a weight under "
        f"{study.scheme}; the median of {study.tokens} tokens' outputs keeps {study.token_sqnr_db:z.1f} dB, the "
        f"whole output {study.output.sqnr_db:z.1f} dB.",
    )
    return _document(
        f"{name} under {study.scheme}",
        sentences,
        (_histograms("The weights, before and after", {"before": before, "after": after, "error": error}),),
        (
            Table("Errors", ("of", "SQNR, dB", "MSE", "relative MSE", "cosine", "largest"), rows),
            Table("Output channels with the largest error", ("channel", "RMS error", "RMS"), channels),
        ),
        {"layer": name, "scheme": study.scheme, "static range": study.static_range, **facts},
    )


def _document(
    title: str,
    sentences: tuple[str, ...],
    pictures: tuple[Intervals | Histograms, ...],
    tables: tuple[Table, ...],
    facts: Mapping[str, Any],
) -> Document:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Document(title, sentences, pictures, tables, dict(facts), CONVENTIONS, versions(), made)


def _duel_sentences(found: Duel, kl: Mapping[str, Interval], spreads: Mapping[str, Spread] | None) -> tuple[str, ...]:
    ranked, aparts = sorted(kl, key=lambda text: kl[text].value), told_apart(found, spreads)
    best = ranked[0]
    said = [f"Nearest to the float model: {short_label(best)}, KL {kl[best].value:.4g} nats a token."]
    for text in ranked[1:]:
        apart = aparts[text, best]
        size = "" if apart.share is None else f" ({share_words(apart.share)})"
        said.append(
            f"{short_label(text)}: {digits(apart.difference.value, 3, '+')} nats{size} against it, {apart.verdict}."
        )
    said += [f"Left out: {text}: {reason}" for text, reason in found.refused.items()]
    return tuple(said)


def duel_table(found: Duel, spreads: Mapping[str, Spread] | None = None) -> Table:
    """A duel's figures, a row a scheme: the one table that the page, its CSV and the report show; with rounding luck
    where it was measured."""
    lucks = {text: one.deviation for text, one in (spreads or {}).items() if one.freedom}
    rows = [_duel_row(found, text) | {"KL, luck's deviation": lucks.get(text)} for text in found.reports]
    return Table("Figures", tuple(rows[0] if rows else ()), tuple(tuple(row.values()) for row in rows))


def _duel_row(found: Duel, text: str) -> dict[str, Any]:
    report, kl = found.reports[text], window_interval(found.scores[text].kl)
    own, change = report.log_perplexity, report.log_perplexity_change
    return {
        "scheme": short_label(text),
        "text": text,
        "bits a number": report.model_bits,
        "bits a weight": report.bits_per_weight,
        "MB": report.bytes / 1e6,
        "perplexity": report.perplexity,
        "perplexity from": exp(own.lo),
        "perplexity to": exp(own.hi),
        "perplexity, float": report.float_perplexity,
        "change of log perplexity": change.value,
        "change from": change.lo,
        "change to": change.hi,
        "KL": kl.value,
        "KL from": kl.lo,
        "KL to": kl.hi,
        "KL p50": report.kl_p50,
        "KL p95": report.kl_p95,
        "KL p99": report.kl_p99,
        "KL largest": report.kl_max,
        "same top-1": report.top1_agreement,
        "quantizing, s": found.quantize_s[text],
        "reading, s": report.seconds,
        "measured": found.made.get(text, "under way"),
    }


def exp(value: float) -> float:
    """e to the power of `value`, infinite where that is no float."""
    return math.exp(value) if value < 700 else math.inf


def _pair_table(found: Duel, spreads: Mapping[str, Spread] | None) -> Table:
    rows, aparts = [], told_apart(found, spreads)
    for one, other in combinations(found.reports, 2):
        apart, nll = aparts[one, other], found.log_perplexity_difference(one, other)
        kl = apart.difference
        rows.append((short_label(one), short_label(other), kl.value, kl.lo, kl.hi, apart.share, apart.luck,
                     apart.p, apart.verdict, nll.value, nll.lo, nll.hi))  # fmt: skip
    columns = (
        "scheme", "minus", "KL", "KL from", "KL to", "of the other's KL", "luck alone, +-",
        "p, all pairs together", "verdict", "log perplexity", "log perplexity from", "log perplexity to",
    )  # fmt: skip
    return Table("Pairs, paired window by window", columns, tuple(rows))


def _layer_tables(found: Duel) -> list[Table]:
    columns = (
        "layer", "shape", "scheme", "bits a weight", "weight SQNR, dB", "GPTQ loss", "loss by rounding", "tokens",
        "notes",
    )  # fmt: skip
    return _expert_tables(found) + [
        Table(
            f"Layers of {short_label(text)}",
            columns,
            tuple(
                (
                    row.name,
                    f"{row.shape[0]} x {row.shape[1]}",
                    row.scheme,
                    row.bits_per_weight,
                    row.weight_sqnr_db,
                    row.loss,
                    row.rtn_loss,
                    row.tokens,
                    "; ".join(row.notes),
                )
                for row in layers
            ),
            folded=True,
        )  # fmt: skip
        for text, layers in found.layers.items()
        if layers
    ]


def _expert_tables(found: Duel) -> list[Table]:
    """Of schemes that learn from a text: how many of its tokens each expert of each block was given."""
    tables = []
    for text, layers in found.layers.items():
        if rows := tokens_by_expert(layers):
            columns = ("experts", *(str(number) for number in range(max(map(len, rows.values())))))
            shown = tuple((place, *(row[number] for number in sorted(row))) for place, row in rows.items())
            tables.append(Table(f"Calibration tokens of each expert, {short_label(text)}", columns, shown, folded=True))
    return tables


def _intervals(title: str, unit: str, found: Mapping[str, Interval]) -> Intervals:
    return Intervals(title, unit, tuple((short_label(text), one.value, one.lo, one.hi) for text, one in found.items()))


def _histograms(title: str, found: Mapping[str, Any]) -> Histograms:
    reach = max(one.reach for one in found.values())
    coarse = {name: one.on_reach(reach).coarsened(BINS) for name, one in found.items()}
    edges = tuple(next(iter(coarse.values())).edges.tolist())
    counts = {name: tuple(one.counts.tolist()) for name, one in coarse.items()}
    return Histograms(title, "value; counts on a logarithmic scale", edges, counts)
