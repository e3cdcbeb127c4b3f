"""Sentences and tables of the page Speed and memory, every number from the report, the machine or the shape at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from quantcore.scheme.scheme import Scheme
from quantcore.studies.footprint import BUDGETS_GB, GB, Footprint, GptqMemory, ModelShape
from quantcore.studies.gpus import ARITHMETICS, FLOAT, GPUS, Machine
from quantcore.studies.hardware import Run, gain_bound, how_it_runs, work_of
from quantcore.studies.speed import HUMMING, REORDERED, SpeedReport, scheme_of
from quantcore.studies.speed_curves import crossings, disturbed, rows_of

TICKS = [2**power for power in range(14)]  # numbers of tokens
LITTLE = 1.1  # a bound below it is called nothing
FASTER = 1.05  # a measured gain below it is no gain
TABLE_SCHEMES = {
    "W4A16, W8A16": "W4A16",
    "W8A8": "W8A8",
    "FP8": "FP8_DYNAMIC",
    "FP8_BLOCK": "FP8_BLOCK",
    "W4A8": "W4A8",
    "W4AFP8": "W4AFP8",
    "W4A4": "W4A4",
    "fp4, groups of 16": "w:fp4_e2m1/group16,a:fp4_e2m1/group16/dynamic",
}
VLLMS = (
    "vLLM multiplies quantized layers by Humming's kernels (`pip install humming-kernels`). Recorded 2026-11-29 on an "
    "H200, Humming 0.1.20, a weight of 14336 x 4096, from bf16 to bf16: times as fast as bf16's product. Where Humming "
    "is installed this page times it on the GPU with the other schemes, and a layer takes it if its `path` says so."
)


def label(text: str) -> str:
    """A scheme's short name: the preset's, or what its arithmetic and its range say."""
    reordered = ", reordered" if REORDERED in text else ""
    scheme = scheme_of(text)
    name = scheme.label
    if name == "FP8":
        name = "FP8 static"
    elif name == "W8A8":
        name = "W8A8 dynamic"
    elif name == str(scheme) and scheme.activations is not None and scheme.weights is not None:
        kind = {"int8": "W8A8", "fp8_e4m3": "FP8"}.get(scheme.weights.fmt.name)
        if kind is not None and scheme.weights.fmt == scheme.activations.fmt:
            name = f"{kind} static" if not scheme.activations.dynamic else f"{kind} {scheme.activations.granularity}"
    return f"{name}{reordered}{', by Humming' if text.endswith(HUMMING) else ''}"


def headline(report: SpeedReport, schemes: Sequence[str]) -> str:
    """The fastest scheme with the fewest tokens, and with the most."""
    counts = sorted({row.tokens for row in report.rows})
    best = [
        max((row for row in report.rows if row.tokens == count and row.scheme in schemes), key=lambda row: row.gain)
        for count in dict.fromkeys((counts[0], counts[-1]))
    ]
    said = "; ".join(
        f"**{label(row.scheme)}** at {_tokens(row.tokens)}, **{row.gain:.2f}x** bf16"
        if row.gain > FASTER
        else f"**bf16** itself at {_tokens(row.tokens)}, where nothing gains {FASTER - 1:.0%}"
        for row in best
    )
    return f"Fastest on {report.device}: {said}."


def measured(report: SpeedReport, schemes: Sequence[str]) -> list[str]:
    """Who beats bf16 with few tokens and with many, who never does, and whether the clock was steady."""
    counts = sorted({row.tokens for row in report.rows})
    never = [text for text in schemes if all(row.gain <= FASTER for row in rows_of(report, text))]
    if len(never) == len(schemes):
        words = [
            f"Nothing here beats bf16 by more than {FASTER - 1:.0%}, at {', '.join(map(str, counts))} tokens at once."
        ]
    else:
        words = [_winners(report, schemes, count) for count in dict.fromkeys((counts[0], counts[-1]))]
        words += (
            [f"Never more than {FASTER - 1:.0%} faster than bf16 here: {'; '.join(map(label, never))}."]
            if never
            else []
        )
    if disturbing := disturbance(report):
        words.insert(0, disturbing)
    return words


def disturbance(report: SpeedReport) -> str | None:
    """Said where times cannot be true, because more tokens took less; None where they can."""
    restless = disturbed(report)
    if not restless:
        return None
    names = "; ".join(sorted({f"{label(row.scheme)} at {row.tokens}" for row in restless})[:3])
    return (
        f"**Disturbed:** {len(restless)} of {len(report.rows)} times exceed those for more tokens ({names}): "
        "something else was running. Measure again before you believe them."
    )


def extras(report: SpeedReport, schemes: Sequence[str]) -> list[str]:
    """What a dynamic range costs, and what reordered groups cost."""
    return _dynamic(report, schemes) + _reordered(report, schemes)


def _winners(report: SpeedReport, schemes: Sequence[str], tokens: int) -> str:
    rows = [row for row in report.rows if row.tokens == tokens and row.scheme in schemes]
    ranked = sorted((row for row in rows if row.gain > FASTER), key=lambda row: -row.gain)
    said = "; ".join(f"{label(row.scheme)} **{row.gain:.2f}x**" for row in ranked)
    return f"{_tokens(tokens)} at once: {f'faster than bf16 are {said}' if said else 'nothing beats bf16'}."


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' * (count != 1)}"


def _about(tokens: float) -> str:
    return f"{tokens:,.0f}" if tokens >= 10 else f"{tokens:.2g}"


def meetings(report: SpeedReport, schemes: Sequence[str]) -> list[str]:
    """Of each scheme, where it wins and where it loses."""
    return [_meeting(report, text) for text in schemes if rows_of(report, text)]


def _meeting(report: SpeedReport, text: str) -> str:
    rows = rows_of(report, text)
    best, worst = max(rows, key=lambda row: row.gain), min(rows, key=lambda row: row.gain)
    where = [f"{'wins' if one.wins else 'loses'} beyond {_about(one.tokens)} tokens" for one in crossings(report, text)]
    if not where:
        where = ["beats bf16 everywhere" if best.gain > 1 else "buys no time here"]
    return (
        f"**{label(text)}** {', '.join(where)}: {best.gain:.2f}x bf16 at best ({best.tokens} tokens), "
        f"{worst.gain:.2f}x at worst ({worst.tokens})."
    )


def _dynamic(report: SpeedReport, schemes: Sequence[str]) -> list[str]:
    """Encode times of the dynamic and the static form of each format, at the most tokens."""
    parsed = {text: scheme_of(text) for text in schemes if rows_of(report, text)}
    words = []
    for fmt, name in (("int8", "int8"), ("fp8_e4m3", "fp8")):
        found: dict[bool, str] = {}
        for text, scheme in parsed.items():
            if scheme.activations is not None and scheme.activations.fmt.name == fmt:
                found.setdefault(scheme.activations.dynamic, text)
        if len(found) == 2:
            dynamic, static = rows_of(report, found[True])[-1], rows_of(report, found[False])[-1]
            words.append(
                f"Making {name} codes of {_tokens(dynamic.tokens)} takes {dynamic.encode_ms:.3g} ms with a dynamic "
                f"range (**{dynamic.encode_ms / (dynamic.encode_ms + dynamic.product_ms):.0%}** of its time) and "
                f"{static.encode_ms:.3g} ms with a frozen one."
            )
    return words


def _reordered(report: SpeedReport, schemes: Sequence[str]) -> list[str]:
    words = []
    for text in schemes:
        plain, rows = rows_of(report, text.removesuffix(REORDERED)), rows_of(report, text)
        if REORDERED in text and plain and rows:
            dearest = max(zip(rows, plain, strict=False), key=lambda pair: pair[0].total_ms / pair[1].total_ms)
            words.append(
                f"Reordered groups (`g_idx`) cost up to **{dearest[0].total_ms / dearest[1].total_ms - 1:+.0%}** "
                f"on top of {label(text.removesuffix(REORDERED))}, at {_tokens(dearest[0].tokens)}."
            )
    return words


def closed(paths: Mapping[str, tuple[str, str]]) -> list[str]:
    """For each scheme that ran by dequantizing: why its own path is closed on this device."""
    reasons: dict[str, list[str]] = {}
    for text, (name, reason) in paths.items():
        reasons.setdefault(f"the path `{name}` is closed: {reason}", []).append(label(text))
    return [
        f"{'; '.join(names)}: {reason}. So the weight is dequantized at every call, which saves memory and no time."
        for reason, names in reasons.items()
    ]


def split(report: SpeedReport, schemes: Sequence[str], at: int) -> str:
    """What encoding and the product take at one number of tokens."""
    rows = [row for row in report.rows if row.scheme in schemes and row.tokens == at]
    parts = [f"{label(row.scheme)} {row.encode_ms:.3g} + {row.product_ms:.3g} ms" for row in rows]
    return f"encode + product at {at} tokens: {', '.join(parts)}; bf16 {report.floats[at]:.3g} ms"


def promised(machine: Machine, shape: tuple[int, int], schemes: Sequence[str]) -> list[str]:
    """Up to how many tokens each scheme can gain anything on a machine; where bf16 leaves the memory's pace."""
    words = [
        f"On {machine.name} bf16 waits for memory up to **{machine.ridge(FLOAT):.0f}** operations a byte; beyond it "
        "only faster arithmetic helps, and fewer weight bytes buy nothing."
    ]
    for text in schemes:
        gains = {count: gain_bound(text, shape, count, machine) for count in TICKS}
        useful = [count for count, gain in gains.items() if gain >= LITTLE]
        how = how_it_runs(scheme_of(text), machine)
        reach = (
            "can gain nothing at any number of tokens"
            if not useful
            else f"can gain up to {max(gains.values()):.2f}x"
            + ("" if useful[-1] == TICKS[-1] else f", and nothing beyond {_tokens(useful[-1])}")
        )
        words.append(f"**{label(text)}** {reach}: {how.why}.")
    return words


def above_the_roof(machine: Machine, report: SpeedReport) -> str | None:
    """Said where measured points lie over the memory's line: then the weight came from a cache."""
    points = [(row.scheme, row.tokens, row.total_ms) for row in report.rows]
    points += [("float", tokens, ms) for tokens, ms in report.floats.items()]
    above = sum(
        1e-6 * work_of(text, report.shape, tokens).bytes_moved / ms > machine.bandwidth_gb_s
        for text, tokens, ms in points
    )
    if not above:
        return None
    megabytes = 2 * report.shape[0] * report.shape[1] / 1e6
    return (
        f"{above} of {len(points)} points lie above the memory's line: a weight of {megabytes:.3g} MB in bf16 stays in "
        "the processor's cache from call to call. A model whose layers take turns does not have this gift."
    )


def rates_table() -> pd.DataFrame:
    """The named GPUs: memory, bandwidth, dense rates."""
    rows = []
    for gpu in GPUS.values():
        rates = {name: f"{gpu.rates[name]:,.5g}" if name in gpu.rates else "-" for name in ARITHMETICS}
        memory: dict[str, Any] = {"GB": gpu.memory_gb, "GB/s": gpu.bandwidth_gb_s}
        rows.append({"GPU": gpu.name, "family": gpu.family, **memory, **rates})
    return pd.DataFrame(rows)


def sources() -> str:
    """Where each figure of that table is from."""
    return "Sources: " + "; ".join(f"**{gpu.name}** {gpu.source}" for gpu in GPUS.values()) + "."


def native_table() -> pd.DataFrame:
    """What each named GPU multiplies for each scheme; a check where it is the scheme's own arithmetic."""
    rows = []
    for gpu in GPUS.values():
        row = {"GPU": gpu.name}
        for name, text in TABLE_SCHEMES.items():
            run = how_it_runs(Scheme.parse(text), gpu)
            row[name] = how_words(run)
        rows.append(row)
    return pd.DataFrame(rows)


def how_words(run: Run) -> str:
    """One word for how a scheme runs, wherever it is said: its own codes multiplied, or unpacked before."""
    if run.weights_only:
        return "weights only"
    return f"✓ {run.arithmetic}" if run.native else f"as {run.arithmetic}"


def reasons(scheme: str) -> list[str]:
    """For one scheme, the reason on each GPU; GPUs with the same reason share a line."""
    found: dict[str, list[str]] = {}
    for gpu in GPUS.values():
        found.setdefault(how_it_runs(Scheme.parse(scheme), gpu).why, []).append(gpu.name)
    return [f"**{', '.join(names)}**: {why}" for why, names in found.items()]


def fits(shape: ModelShape, cards: Sequence[Footprint]) -> list[str]:
    """What fits where, and what the cache costs."""
    words = [
        f"{shape.name} has **{_count(shape.parameters)}** parameters; a token of KV cache takes "
        f"**{cards[0].kv_bytes_per_token / 1e3:.4g} kB**."
    ]
    if shape.chosen:
        read = ", ".join(f"`{card.scheme[:60]}` {card.read_bytes / GB:.3g} GB" for card in cards)
        words.append(
            f"A token passes {shape.chosen[0]} of {shape.chosen[1]} experts a block, **{_count(shape.active)}** "
            f"parameters; memory must hold all experts, and a single sequence reads for each token {read}."
        )
    homes: dict[int | None, list[str]] = {}
    for card in cards:
        homes.setdefault(card.budget_gb(), []).append(f"`{card.scheme[:60]}` ({card.total_bytes / GB:.3g} GB)")
    for budget in sorted(homes, key=lambda one: one or 10**9):
        where = f"**{budget} GB** hold" if budget else f"No card of up to {BUDGETS_GB[-1]} GB holds"
        words.append(f"{where} {', '.join(homes[budget])}.")
    return words


def _count(number: int) -> str:
    return f"{number / 1e9:.3g} billion" if number >= 1e9 else f"{number / 1e6:.3g} million"


def card_table(cards: Sequence[Footprint]) -> pd.DataFrame:
    """Bytes of each scheme, and how many tokens of cache each budget leaves room for (0: it does not fit)."""
    return pd.DataFrame(
        {
            "scheme": card.scheme,
            "bits a weight": 16.0 if card.bits_per_weight is None else round(card.bits_per_weight, 3),
            "weights GB": round(card.weights_bytes / GB, 3),
            "KV GB": round(card.kv_bytes / GB, 3),
            "activations GB": round(card.activation_bytes / GB, 3),
            "total GB": round(card.total_bytes / GB, 3),
            "read a token GB": round(card.read_bytes / GB, 3),
            **{f"tokens, {budget} GB": _any(card.tokens_within(budget)) for budget in BUDGETS_GB},
        }
        for card in cards
    )


def _any(tokens: int | None) -> int | str:
    return "any" if tokens is None else tokens


def written_cards(cards: Sequence[Footprint]) -> pd.DataFrame:
    """The same for the eye: three digits, bits with three decimals as on every page, thousands set apart."""
    table = card_table(cards).set_index("scheme")
    bits = table.pop("bits a weight").map("{:.3f}".format)
    table = table.map(lambda one: one if isinstance(one, str) else f"{one:,}" if isinstance(one, int) else f"{one:.3g}")
    table.insert(0, "bits a weight", bits)
    return table


def gptq_words(shape: ModelShape, found: GptqMemory, tokens: int) -> str:
    sizes = ", ".join(f"{width} x {width}" for width in found.hessians)
    return (
        f"GPTQ goes block by block: one block of {shape.name} ({found.block_bytes / GB:.3g} GB), its "
        f"{len(found.hessians)} Hessians ({sizes}; {found.hessian_bytes / GB:.3g} GB), the work on its widest layer "
        f"({found.widest[0]} x {found.widest[1]}; {found.work_bytes / GB:.3g} GB) and the hidden states of {tokens:,} "
        f"tokens ({found.hidden_bytes / GB:.3g} GB): **{found.total_bytes / GB:.3g} GB**, where the model itself takes "
        f"{2 * shape.parameters / GB:.3g} GB in 16 bits and may lie elsewhere."
    )


def times_table(report: SpeedReport, schemes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scheme": row.scheme,
            "path": row.path,
            "tokens": row.tokens,
            "encode ms": row.encode_ms,
            "product ms": row.product_ms,
            "total ms": row.total_ms,
            "bf16 ms": row.float_ms,
            "times bf16": row.gain,
            "operations a byte": work_of(row.scheme, report.shape, row.tokens).intensity,
        }
        for text in schemes
        for row in rows_of(report, text)
    )
