"""What is said of a coded KV cache: where it loses, what it recalls, and how far a GPU's memory reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quantcore.advice.load import SHARE
from quantcore.numbers.digits import digits
from quantcore.studies.context_lens import FLOAT, ContextLens
from quantcore.studies.retrieval import FACTS, Retrieval
from ui.markdown import code

OFTEN = 0.25  # of the answers, from which on a share says something
LATER = 1.5  # times the loss at the beginning, from which on it grows with the context


def headline(found: ContextLens) -> str:
    """The cache that loses least and the one that loses most, and whether the loss grows."""
    mean = {name: float(kl.double().mean()) for name, kl in found.kl.items()}
    ordered = sorted(mean, key=lambda name: mean[name])
    best, worst = ordered[0], ordered[-1]
    if worst == best:
        return f"{code(best)} loses **{digits(mean[best], 2)}** nats a token; {grows(found, best)}."
    return (
        f"{code(best)} loses least, **{digits(mean[best], 2)}** nats a token, {code(worst)} most, "
        f"**{digits(mean[worst], 2)}**; of the latter {grows(found, worst)}."
    )


def blame(found: ContextLens) -> str:
    """Keys or values, where both were coded alone and alike; empty where they were not."""
    mean = {name: float(kl.double().mean()) for name, kl in found.kl.items()}
    for keys in (name for name in mean if name.startswith("k:")):
        values = f"v:{keys.removeprefix('k:')}"
        if values not in mean or not (mean[keys] and mean[values]):
            continue
        more, less = ("keys", "values") if mean[keys] > mean[values] else ("values", "keys")
        ratio = max(mean[keys] / mean[values], mean[values] / mean[keys])
        return f"Coded alone, **{more}** lose **{digits(ratio, 2)}** times as much as {less}."
    return ""


def grows(found: ContextLens, name: str) -> str:
    """The second half of the context beside the first, of the same windows."""
    half, kl = found.length // 2, found.kl[name].double()
    first, second = float(kl[:, :half].mean()), float(kl[:, half:].mean())
    if not first:
        return "there is no loss at the beginning"
    ratio = second / first
    if ratio > LATER:
        return f"the loss grows along the context: {ratio:.1f} times as much in the second half"
    if ratio < 1 / LATER:
        return f"the loss shrinks along the context: {1 / ratio:.1f} times as much in the first half"
    return f"the loss hardly depends on the position ({ratio:.2f} times as much in the second half)"


def recalled(found: ContextLens) -> str:
    """What a cache leaves of what the float cache recalls; where that recalls nothing, so it is said."""
    own = found.recall(FLOAT)
    if not math.isfinite(own.lo):
        return (
            f"{len(found.said[FLOAT])} windows are too few to say: in them the first tokens of a window are "
            f"{own.value:.2f} nats likelier at its end."
        )
    if own.value <= 0 or own.lo <= 0 <= own.hi:
        return (
            "This model does not use what stands that far back: the first tokens of a window are no likelier at its "
            f"end (gain {own.value:.2f} nats), so nothing can be lost of it."
        )
    told = {name: found.recall_lost(name).significant for name in found.kl}
    each = ", ".join(
        f"{code(name)} keeps **{found.recall(name).value / own.value:.0%}**"
        + (" (not told apart from 100%)" if any(told.values()) and not sure else "")
        for name, sure in told.items()
    )
    if not any(told.values()):
        each += (
            "; on these windows none of these is told apart from 100%"
            if len(told) > 1
            else ", not told apart from 100%"
        )
    return (
        f"The first tokens of a window come once more at its end, {found.length:,} tokens later, and are "
        f"{own.value:.2f} nats likelier there: the model finds them in its cache. Of that gain {each}."
    )


def facts(found: Retrieval) -> str:
    """Whether the float model finds facts, and what each cache leaves of that."""
    own, count = found.gain(FLOAT), len(found.misled)
    far = f"{int(found.back.min()):,} to {int(found.back.max()):,} tokens"
    placed = f"{FACTS} facts stand in each window, {far} before they are asked for"
    if not math.isfinite(own.lo):
        return f"{placed}; {count} windows are too few to say whether they are found."
    if not found.finds:
        return (
            f"{placed}. **This model does not find them** even in a float cache: the right numbers are no likelier "
            f"than where the facts say others ({own.value:+.1f} nats, within chance). So figures of other caches mean "
            "nothing here."
        )
    said = f"the model says {found.share(FLOAT):.0%} of {found.asked} numbers right"
    if found.share(FLOAT) < OFTEN:
        said = f"{said}: **too few to go by**, so read the likelihood alone"
    each = ", ".join(
        f"{code(name)} says {found.share(name):.0%} and keeps **{found.gain(name).value / own.value:.0%}** of the gain"
        + ("" if found.lost(name).significant else " (not told apart from 100%)")
        for name in found.said
        if name != FLOAT
    )
    return (
        f"{placed}. With a float cache {said}; they are **{own.value:.1f} nats** likelier than where the facts say "
        f"others. Coded: {each}."
    )


def rows(found: ContextLens, float_bits: int) -> list[dict[str, str]]:
    """One row a cache, for the table. float_bits: of a number of the model that was run, whose cache FLOAT is."""
    return [
        {
            "cache": name,
            "KL, nats": digits(float(kl.double().mean()), 2),
            "next tokens that change": f"{float(found.flips[name].double().mean()):.1%}",
            "recall, nats": f"{found.recall(name).value:.3f}",
            "bytes of a window": f"{found.held[name]:,}",
            "of a 16-bit cache": f"{found.held[name] / found.held[FLOAT] * float_bits / 16:.1%}",
        }
        for name, kl in found.kl.items()
    ]


def reach(fits: Mapping[str, int | None], sequences: int, gpu: str, memory_gb: float | None) -> str:
    """How many tokens each of `sequences` may have before the GPU is full, by cache."""
    if memory_gb is None:
        return f"How much memory the {gpu} has is not known here, so no wall is drawn."
    each = ", ".join(f"{code(name)} **{'any' if count is None else f'{count:,}'}**" for name, count in fits.items())
    many = "one sequence" if sequences == 1 else f"each of {sequences} sequences"
    return (
        f"Beside 16-bit weights, all {memory_gb:g} GB of the {gpu} hold so many tokens for {many}: {each}. A server "
        f"that keeps to {SHARE:.0%} of the memory holds fewer."
    )
