"""What the page "Which scheme should I ship?" says: the card, why not the others, whose figures they are."""

from __future__ import annotations

import shlex

import pandas as pd

from quantcore.advice.choice import GB, Advice, Verdict
from quantcore.advice.load import SHARE, ways_out
from quantcore.advice.losses import Loss
from quantcore.advice.pace import MEASURED_ON, fitted
from quantcore.model.locate import HUB_ID
from quantcore.numbers.digits import digits
from quantcore.studies.gpus import GPUS
from ui.markdown import as_is

GUIDE = (
    "llm-compressor's own guide (0.11, Choosing the right compression scheme) goes by the GPU's age: W4A16 or W8A16 to "
    "save memory, W8A8 int8 for throughput from Turing on, FP8 from Ada on, NVFP4 and MXFP4 on Blackwell. This page "
    "differs where the load says so: few sequences wait for the weights, so four bits are faster than FP8 on a Hopper "
    "too; many wait for arithmetic, so they are not. It also asks what the model loses."
)
MOST_AT_HAND = 16  # GPUs
RECORDED = "the reference model, recorded"  # by which name it is not taken for the loaded one, which it may be


def title(found: Advice) -> str:
    """The advice in a sentence."""
    model = as_is(found.model.rpartition("/")[2])
    gpus = found.gpu if found.gpus == 1 else f"{found.gpus} x {found.gpu}"
    if found.chosen is None:
        least = min(found.verdicts, key=lambda one: one.memory.total)
        short = -least.memory.left / GB
        out = (
            f"even {least.candidate.name} lacks {short:.3g} GB"
            if short > 0
            else "what fits is not tolerated or not run"
        )
        return f"**Nothing** of {model} can be shipped on {gpus} under this load: {out}.{way_out(found, least)}"
    return f"Ship **{found.chosen.candidate.name}** of {model} on {gpus}: `{found.chosen.candidate.text}`"


def way_out(found: Advice, least: Verdict) -> str:
    """What would fit of the smallest candidate, where it does not."""
    if least.memory.left >= 0:
        return ""
    ways = ways_out(least.memory, found.load, found.gpus)
    several = found.gpu in GPUS and ways.gpus is not None and ways.gpus <= MOST_AT_HAND
    said = [
        f"on {ways.gpus} of them" if several else "",
        f"with {count(ways.sequences, 'sequence')} at once" if ways.sequences else "",
        f"with {ways.context:,} tokens of context" if ways.context else "",
    ]
    said = [one for one in said if one]
    return f" It fits {', or '.join(said)}." if said else " Take a smaller model, or more memory."


def duration(ms: float) -> str:
    """Milliseconds, from a second on seconds: 6.04 ms, 105 s."""
    return f"{digits(ms)} ms" if ms < 999.5 else f"{digits(ms / 1e3)} s"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def card(one: Verdict) -> list[str]:
    """Memory, times and loss of a candidate, a line each."""
    memory, lines = one.memory, []
    lines.append(
        f"**{memory.total / GB:.3g} GB** of {memory.budget / GB:.3g} GB ({SHARE:.0%} of the memory): weights "
        f"{memory.weights / GB:.3g}, cache {memory.cache / GB:.3g}, activations {memory.activations / GB:.2g}; "
        + (f"{memory.left / GB:.3g} GB are left." if memory.left >= 0 else f"**{-memory.left / GB:.3g} GB too many.**")
    )
    if one.time is not None and one.step_band is not None:
        lo, hi = one.step_band
        first, step, least, most = map(duration, (1e3 * one.time.first_s, one.time.step_ms, lo, hi))
        lines.append(
            f"First token after **{first}**, then one each **{step}** ({least} to {most}): "
            f"**{float(f'{one.time.tokens_s:.4g}'):,.10g} tokens/s** for all sequences. Predicted."
        )
    lines.append(loss(one.loss))
    if one.note:
        lines.append(f"{one.note[0].upper()}{one.note[1:]}.")
    return lines


def loss(found: Loss | None) -> str:
    if found is None:
        return "Loss: **not measured here**, nor recorded of the reference model."
    if found.kl == 0:
        return "Loss: none, nothing is quantized."
    figures = (
        f"KL **{digits(found.kl, 2)}** ({digits(found.lo, 2)} to {digits(found.hi, 2)}) nats a token, perplexity up by "
        f"at most {found.perplexity:.2%}, the same next token in {found.top1:.1%}; {found.on}"
    )
    return f"Loss, measured: {figures}." if found.own else f"Loss: **not measured here**. Recorded: {figures}."


def table(found: Advice) -> pd.DataFrame:
    """All candidates, and why each is not the one."""
    rows = []
    for one in found.verdicts:
        time = one.time
        rows.append(
            {
                "candidate": one.candidate.name,
                "why not": one.why or ("**the advice**" if one == found.chosen else ""),
                "GB": f"{one.memory.total / GB:.3g}",
                "ms a token": "" if time is None else digits(time.step_ms),
                "tokens/s": "" if time is None else f"{time.tokens_s:,.0f}",
                "KL": "" if one.loss is None else digits(one.loss.kl, 2),
                "KL of": "" if not (one.loss and one.loss.kl) else "this model, here" if one.loss.own else RECORDED,
                "frontier": one.frontier,
                "scheme": one.candidate.text,
            }
        )
    return pd.DataFrame(rows)


def elsewhere(found: Advice) -> str:
    return "Not among the candidates: " + "; ".join(f"**{name}**: {why}" for name, why in found.elsewhere.items()) + "."


def trust(found: Advice) -> str:
    """How good the speed model is, and for which GPUs."""
    errors, here = fitted().held_out, found.gpu in MEASURED_ON
    said = (
        f"Speed: a model fitted to products of this lab's own kernels, recorded on an H100 and an H200. Held out, the "
        f"median error is {errors['shape'].median:.0%} on shapes, {errors['tokens'].median:.0%} on numbers of tokens, "
        f"{errors['gpu'].median:.0%} on a GPU it had not seen, {errors['decode'].median:.0%} on whole decode steps."
    )
    if not here:
        said += f" Nothing was measured on a {found.gpu}: the same efficiency is assumed, the band is twice as wide."
    return said


def others() -> pd.DataFrame:
    """How vLLM's backend and ours did beside bf16, in one run."""
    told = fitted().others
    names = [name for name in told if name not in ("whose", "tokens")]
    times = {f"{name}, x bf16": [f"{one:.2f}" for one in told[name]] for name in names}
    return pd.DataFrame({"tokens": told["tokens"], **times})


def serve_line(folder: str, found: Advice, longest: int | None = None) -> str:
    """The shell's line that serves a checkpoint, or an id of the hub, under the load, within the `longest` context that
    the model was made for, where that is known: vLLM refuses a longer one."""
    context = found.load.context if longest is None else min(found.load.context, longest)
    name, _, revision = folder.partition("@") if HUB_ID.fullmatch(folder) else (folder, "", "")
    words = ["vllm", "serve", name, *(["--revision", revision] if revision else []), "--max-model-len", str(context)]
    words += ["--max-num-seqs", str(found.load.sequences), "--gpu-memory-utilization", str(SHARE)]
    words += ["--tensor-parallel-size", str(found.gpus)] if found.gpus > 1 else []
    return shlex.join(words)
