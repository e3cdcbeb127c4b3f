"""What the page Take it with you says: the price in bytes, where it runs, the command lines, what lies on the disk."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd
from torch import nn

from quantcore.export.promise import Promise
from quantcore.export.tensors import require_plain_linears
from quantcore.export.vllm import Serving
from quantcore.measure.scores import ModelReport
from quantcore.numbers.digits import digits
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.gpus import GPUS
from quantcore.studies.hardware import how_it_runs
from quantcore.studies.written import ReadBack, Written
from quantcore.text.reading import CALIBRATE, Reading
from ui.markdown import as_is
from ui.words.digits import shown_kl
from ui.words.speed import how_words

OUR_OWN = "our own calibration text, an equal share of each kind"
CAPABILITIES = (
    "NVIDIA 7.5 is Turing (T4), 8.0 Ampere (A100), 8.6 RTX 30, 8.9 Ada (L4, RTX 40), 9.0 Hopper (H100, H200), 10 and "
    "above Blackwell (B200, RTX 50)."
)


def refusal(model: nn.Module, schemes: Mapping[str, Scheme], kv: CacheSpec | None = None) -> str | None:
    """Why no checkpoint of the model's layers can be written for any reader, in the exporter's own words."""
    from quantcore.export.checkpoint_format import require_exportable  # compressed-tensors takes 2 s to import

    try:
        require_plain_linears(model, schemes)
        require_exportable(list(dict.fromkeys(schemes.values())), kv)
    except ValueError as error:
        return str(error)
    return None


def price(parts: Promise, label: str, schemes: Iterable[Scheme]) -> tuple[str, str]:
    """Bytes beside the float model's and bits a weight, in a sentence; and what stays float."""
    if not parts.size.numbers:
        return f"**{label}** leaves every weight float: **{parts.float_bytes / 1e6:.2f} MB** in {parts.dtype}.", ""
    share, rest = parts.bytes / parts.float_bytes, parts.parts["float rest"]
    said = (
        f"**{label}** takes **{parts.bytes / 1e6:.2f} MB** instead of {parts.float_bytes / 1e6:.2f} MB in "
        f"{parts.dtype} (**{share:.0%}**): **{parts.size.bits_per_weight:.4g} bits** a quantized weight, scales and "
        "zero points counted."
    )
    left = f"{rest / 1e6:.2f} MB stay float: embeddings, norms, and what is skipped."
    if parts.dtype == "float32":
        left += (
            " Measurements and the other pages count 16 bits for each such number and each scale: "
            f"{parts.counted.bytes / 1e6:.2f} MB, {parts.counted.bits_per_weight:.4g} bits a quantized weight."
        )
    if not parts.layouts:
        return said, f"{left} Counted as if codes were packed without gaps, as no such file is written."
    if "int-quantized" in parts.layouts and any(
        one.weights and one.activations and one.weights.fmt.bits < 8 for one in schemes
    ):
        return said, f"{left} Beside quantized activations the format keeps one code a byte, also of fewer bits."
    return said, left


def runs(serving: Serving, schemes: Mapping[str, Scheme]) -> list[str]:
    """Which GPUs multiply the codes themselves, by the datasheets; what vLLM takes, and what it will refuse."""
    said = []
    for scheme in dict.fromkeys(schemes.values()):
        ways: dict[tuple[str, str], list[str]] = {}
        for gpu in GPUS.values():
            run = how_it_runs(scheme, gpu)
            ways.setdefault((how_words(run), run.why), []).append(gpu.name)
        for (how, why), names in ways.items():
            said.append(f"{scheme.label} runs **{how}** on {kinds(names)}: {why}.")
    said += [f"vLLM has a kernel for {gpus}." for gpus in serving.gpus]
    if serving.mixture is not None:
        said.append(f"**A mixture:** {serving.mixture}.")
    return said + [f"**vLLM may refuse it:** {problem}." for problem in serving.problems]


def kinds(names: Collection[str]) -> str:
    """GPUs of the table in few words: a generation where all of its rows are among them, else the names."""
    every: dict[str, list[str]] = {}
    for gpu in GPUS.values():
        every.setdefault(gpu.family.split()[0], []).append(gpu.name)
    if set(names) == set(GPUS):
        return f"all {len(GPUS)} GPUs of the table"
    parts = []
    for family, members in every.items():
        mine = [one for one in members if one in names]
        parts += [family] if len(mine) == len(members) > 1 else mine
    return ", ".join(parts)


def quantize_command(
    model_id: str,
    plan: Plan,
    folder: str,
    learned: Reading | None,
    text: str | None = None,
) -> str:
    """The shell's line that writes the same checkpoint; what it learns from where the plan needs some, of our own text
    or of the one called `text`."""
    words = ["python", "-m", "quantcore", "quantize", "--model", model_id, "--scheme", str(plan), "--out", folder]
    words += [] if text is None else ["--text", text]
    if learned is not None:
        words += [] if learned.length == CALIBRATE.length else ["--window", str(learned.length)]
        words += ["--max-tokens", str(learned.windows * learned.length)] + ["--chat"] * learned.chat
    return shlex.join(words)


def calibrated(plan: Plan, tokens: int, source: str) -> str:
    """What the plan learns, and from which text."""
    learned = {
        "GPTQ's Hessians": plan.needs_hessian,
        "the frozen activation ranges": plan.needs_ranges,
    }
    return f"From {tokens:,} tokens of {source}: {' and '.join(what for what, asked in learned.items() if asked)}."


def parts_table(parts: Promise) -> pd.DataFrame:
    """Bytes by part, plain numbers."""
    sizes = {
        **parts.parts,
        "all of the checkpoint": parts.bytes,
        "the float model": parts.float_bytes,
    }
    return pd.DataFrame({"part": list(sizes), "bytes": list(sizes.values())})


def landed(found: Written) -> str:
    """Where the checkpoint lies and what rounding its scales changed."""
    facts = found.facts
    return (
        f"Written {facts['made'][:16].replace('T', ' ')} UTC on {facts['device']}: "
        f"**{found.bytes / 1e6:.2f} MB** in {len(found.files)} files, "
        f"format `{facts['format']}`, everything that is no code in {facts['dtype']}. Rounding the scales to it moved "
        f"one by **{100 * facts['scale_rounding']:.3f}%** at most (half a unit in the last place is "
        f"{100 * facts['scale_rounding_limit']:.3f}%), and so each weight by no more than that share of itself. "
        f"Quantizing took {facts['quantize_s']:.1f} s, writing {facts['write_s']:.1f} s.{_tried(facts)}"
    )


def _tried(facts: Mapping[str, Any]) -> str:
    """What transformers made of it, where it ran it."""
    apart = facts.get("logits_apart")
    if apart is None:
        return ""
    near = f"within {apart:.1g} of their size" if apart else "bit for bit"
    return f" transformers ran it: its logits are ours, {near}."


def noted(found: Written) -> str:
    """What is not as usual in the checkpoint, or in how transformers loads it; empty where all is."""
    return " ".join(as_is(f"{one[0].upper()}{one[1:]}.") for one in found.facts.get("notes", ()))


def files_table(found: Written) -> pd.DataFrame:
    return pd.DataFrame(
        [{"file": one.name, "bytes": f"{one.bytes:,}", "SHA-256": one.sha256} for one in found.files]
    ).set_index("file")


def measured(report: ModelReport, plan: str) -> str:
    """The whole model's figures in a sentence."""
    return (
        f"On {report.tokens:,} tokens: KL **{shown_kl(plan, report.kl)}** nats a token, perplexity "
        f"**{report.perplexity:.2f}** against {report.float_perplexity:.2f}, the same likeliest next token "
        f"{report.top1_agreement:.1%} of the time."
    )


def read_back(found: ReadBack) -> str:
    """The checkpoint beside the model it was written from."""
    change = found.perplexity_loaded / found.perplexity - 1
    return (
        f"Loaded by transformers, the checkpoint has perplexity **{found.perplexity_loaded:.4f}** on {found.tokens:,} "
        f"tokens, the quantized model it was written from **{found.perplexity:.4f}** ({100 * change:+.4f}%); KL "
        f"between the two {digits(found.kl)} nats a token, the same likeliest next token {found.same_top1:.1%} of the "
        "time. What differs is the rounding of the scales, which of quantized activations also moves some to a "
        "neighbouring code, and the order in which sums are taken."
    )
