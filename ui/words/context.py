"""What is said of a coded KV cache: where it loses, what it recalls, and how far a GPU's memory reaches."""

from __future__ import annotations

from collections.abc import Mapping

from quantcore.studies.context_lens import FLOAT, ContextLens
from ui.markdown import code

LATER = 1.5  # times the loss at the beginning, from which on it grows with the context


def headline(found: ContextLens) -> str:
    """The cache that loses most and the one that loses least, and whether the loss grows."""
    mean = {name: float(kl.double().mean()) for name, kl in found.kl.items()}
    ordered = sorted(mean, key=lambda name: mean[name])
    best, worst = ordered[0], ordered[-1]
    said = f"{code(best)} costs **{mean[best]:.2g}** nats a token"
    if worst != best:
        said += f", {code(worst)} **{mean[worst]:.2g}**"
    return f"{said}; {grows(found, worst)}."


def grows(found: ContextLens, name: str) -> str:
    """The second half of the context beside the first, of the same windows."""
    half, kl = found.length // 2, found.kl[name].double()
    first, second = float(kl[:, :half].mean()), float(kl[:, half:].mean())
    if not first:
        return "there is no loss at the beginning"
    ratio = second / first
    if ratio > LATER:
        return f"its loss grows along the context: {ratio:.1f} times as much in the second half"
    if ratio < 1 / LATER:
        return f"its loss shrinks along the context: {1 / ratio:.1f} times as much in the first half"
    return f"its loss hardly depends on the position ({ratio:.2f} times as much in the second half)"


def recalled(found: ContextLens) -> str:
    """What a cache leaves of what the float cache recalls; where that recalls nothing, so it is said."""
    own = found.recall(FLOAT)
    if own.value <= 0 or own.lo <= 0 <= own.hi:
        return (
            "This model does not use what stands that far back: the first tokens of a window are no likelier at its "
            f"end (gain {own.value:.2f} nats), so nothing can be lost of it."
        )
    kept = {name: found.recall(name).value / own.value for name in found.kl}
    each = ", ".join(f"{code(name)} keeps **{share:.0%}**" for name, share in kept.items())
    return (
        f"The first tokens of a window come once more at its end, {found.length:,} tokens later, and are "
        f"{own.value:.2f} nats likelier there: the model finds them in its cache. Of that gain {each}."
    )


def rows(found: ContextLens) -> list[dict[str, str]]:
    """One row a cache, for the table."""
    return [
        {
            "cache": name,
            "KL, nats": f"{float(kl.double().mean()):.2g}",
            "next tokens that change": f"{float(found.flips[name].double().mean()):.1%}",
            "recall, nats": f"{found.recall(name).value:.3f}",
            "bytes of a window": f"{found.held[name]:,}",
            "of float's": f"{found.held[name] / found.held[FLOAT]:.1%}",
        }
        for name, kl in found.kl.items()
    ]


def reach(fits: Mapping[str, int], sequences: int, gpu: str) -> str:
    """How many tokens each of `sequences` may have before the GPU is full, by cache."""
    each = ", ".join(f"{code(name)} {count:,}" for name, count in fits.items())
    many = "one sequence" if sequences == 1 else f"each of {sequences} sequences"
    return f"With 16-bit weights {many} may have, until the {gpu} is full, tokens: {each}."
