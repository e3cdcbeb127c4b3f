"""What the page Which layers hurt says: who hurts most, what a plan costs, and whether it beats one scheme for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from quantcore.measure.duel import Duel, short_label
from quantcore.measure.luck import Spread
from quantcore.measure.planning import PlannedChoice
from quantcore.measure.probing import ProbedPlan
from quantcore.measure.sensitivity import Sensitivity
from quantcore.measure.told_apart import share_words, told_apart
from quantcore.numbers.digits import digits
from ui.words.luck import luck_alone
from ui.words.names import named

EXPERTS_TOGETHER = "All experts of a block are measured as one layer, since a short text hardly reaches each of them."


def ranking_words(costs: Mapping[str, float], whole: float | None, all_but: bool) -> tuple[str, str]:
    """Which layers hurt, in a sentence, and what their costs add up to. whole: the KL with all layers quantized; None:
    nothing was measured, the costs are estimated."""
    worst = sorted(costs, key=lambda layer: -costs[layer])
    total = sum(costs.values())
    few = worst[: max(1, len(worst) // 10)]
    share = sum(costs[layer] for layer in few) / total if total else 0.0
    if all_but and whole is not None:
        return (
            f"With all layers quantized the KL is **{whole:.4g}** nats; leaving `{worst[-1]}` float helps most and "
            f"brings it to **{costs[worst[-1]]:.4g}**.",
            "",
        )
    known = (
        "all **estimated** at once from a few backward passes"
        if whole is None
        else f"the whole model's KL {digits(whole)}: {adds_up(total, whole)}"
    )
    hold = (
        f"The worst of {len(worst)} layers holds"
        if len(few) == 1
        else f"The worst {len(few)} of {len(worst)} layers hold"
    )
    many = ", far more than their number" if share > 3 * len(few) / len(worst) else ""
    return (
        f"`{worst[0]}` hurts most, **{digits(costs[worst[0]])}** nats alone. {hold} **{share:.0%}** of the sum{many}.",
        f"`{worst[-1]}` hurts least, {digits(costs[worst[-1]], 2)} nats. All layers add up to {digits(total)} nats, "
        f"{known}.",
    )


def adds_up(total: float, whole: float) -> str:
    """How the layers' own costs compare with that of all together."""
    if not whole:
        return "nothing is lost"
    share = total / whole
    return f"alone they make **{share:.0%}** of what they do together" + (
        "" if abs(share - 1) < 0.1 else ", for errors add up only roughly"
    )


def so_far_words(costs: Mapping[str, float], count: int, all_but: bool) -> str:
    if all_but:
        most = min(costs, key=lambda layer: costs[layer])
        return f"**So far**, {len(costs)} of {count} layers: leaving `{most}` float brings the KL down the most."
    most = max(costs, key=lambda layer: costs[layer])
    return f"**So far**, {len(costs)} of {count} layers: `{most}` hurts most, {digits(costs[most])} nats alone."


def plan_words(
    chosen: PlannedChoice,
    found: Duel | None,
    rival: str | None,
    took: str,
    rival_took: str | None,
    spreads: Mapping[str, Spread] | None = None,
    probed: ProbedPlan | None = None,
) -> list[str]:
    """What the plan takes, its KL as predicted and as measured, and the scheme for all next to it.

    took, rival_took    the prices of both, in words and bold figures: `**4.125** bits a weight`
    probed              what is known of a plan that was mended in place"""
    text = str(chosen.plan)
    predicted = (
        mended(probed, took)
        if probed is not None
        else (
            f"The plan takes {took}; its layers' own costs add up to **{digits(chosen.predicted_kl)}** nats on the "
            "text that it was chosen on."
        )
    )
    if rival == text:
        predicted = (
            f"**The plan is {named(text)} for all**: it takes {took}, and nothing saves more elsewhere. The layers' "
            f"own costs add up to **{digits(chosen.predicted_kl)}** nats on the text that it was chosen on."
        )
    if found is None:
        return [predicted]
    tokens = found.reports[text].tokens
    measured = f"On another text, {tokens:,} tokens, it has KL **{digits(found.reports[text].kl)}**."
    if rival is None or rival == text:
        return [predicted, measured]
    apart = told_apart(found, spreads)[text, rival]
    difference = apart.difference
    size = "" if apart.share is None else f" ({share_words(apart.share)})"
    against = (
        f"{named(rival)} for all takes {rival_took} and has KL {digits(found.reports[rival].kl)} there: the "
        f"plan's is {digits(difference.value, 3, '+')}{size}, 95%: {digits(difference.lo, 2, '+')} to "
        f"{digits(difference.hi, 2, '+')}{luck_alone(apart)}."
    )
    if not apart.beyond:
        verdict = (
            f"**Within chance**: on this text the plan is not told from {named(rival)} for all; so it wins nothing."
        )
    else:
        way = "less" if difference.value < 0 else "more"
        claim = f"The plan loses {way}{size}"
        verdict = f"{f'**{claim}**' if apart.real else claim} than {named(rival)} for all, {apart.verdict}."
    return [verdict, predicted, measured, against]


def bits_words(bits: float) -> str:
    return f"**{bits:.3f}** bits a weight"


def megabytes_words(bits: float, weights: int) -> str:
    return f"**{bits * weights / 8e6:.4g}** MB of weights ({bits:.3f} bits each)"


def time_words(ms: float, gpu: str, sequences: int) -> str:
    """Of the products of one step."""
    many = "one sequence" if sequences == 1 else f"{sequences} sequences"
    return f"a predicted **{digits(ms)}** ms a step of {many} on {gpu}"


def mended(probed: ProbedPlan, took: str) -> str:
    """What trying layers in the plan itself did to it."""
    changed = (
        "no other scheme for any layer did better"
        if not probed.changed
        else f"layers served as {probed.changed} products took another scheme, and it brought the KL on the text that "
        f"it was chosen on from {digits(probed.start_kl)} to **{digits(probed.chosen.predicted_kl)}** nats"
    )
    return f"The plan takes {took}. In {probed.probes} tries in the plan itself {changed}."


def duel_lines(plan: str, rival: str | None, schemes: Sequence[str]) -> str:
    """The lines of a duel, which takes two: the plan and the scheme for all next to it; where it is that scheme, or
    there is none, all schemes that it was made of."""
    others = schemes if rival in (None, plan) else [rival]
    return "\n".join(dict.fromkeys([plan, *others]))


def bits_where(choice: Mapping[str, str], found: Sensitivity) -> str:
    """Why another layer has more bits than the one that hurts most: by what a bit saves there. Empty where none has."""
    worst = max(choice, key=lambda layer: found.alone[layer, choice[layer]])
    own = choice[worst]
    richer = [  # under a scheme that takes more bits than the worst one's in either layer: groups divide some otherwise
        layer
        for layer, more in choice.items()
        if all(found.bits[one, more] > found.bits[one, own] for one in (layer, worst))
    ]
    if not richer:
        return ""
    best = max(richer, key=lambda layer: _saved(found, layer, own, choice[layer])[2])
    more = choice[best]
    (nats, mega, each), (worst_nats, worst_mega, worst_each) = (
        _saved(found, layer, own, more) for layer in (best, worst)
    )
    return (
        f"In the plan `{worst}` hurts most, yet `{best}` got the bits: there {short_label(more)} in place of "
        f"{short_label(own)} saves {digits(nats, 2)} nats for {digits(mega, 2)} million bits, **{digits(each, 2)}** a "
        f"million; in `{worst}` {digits(worst_nats, 2)} nats for {digits(worst_mega, 2)} million, "
        f"{digits(worst_each, 2)} a million."
    )


def _saved(found: Sensitivity, layer: str, fewer: str, more: str) -> tuple[float, float, float]:
    """Nats that a layer saves from one scheme to another, the million bits that it takes, and nats a million bits."""
    nats = found.alone[layer, fewer] - found.alone[layer, more]
    mega = found.weights[layer] * (found.bits[layer, more] - found.bits[layer, fewer]) / 1e6
    return nats, mega, nats / mega


def plan_table(found: Sensitivity, chosen: PlannedChoice) -> pd.DataFrame:
    """Each layer: its scheme in the plan, and what each scheme costs there alone."""
    return pd.DataFrame(
        {
            "layer": layer,
            "weights": found.weights[layer],
            "plan": chosen.choice[layer],
            **{f"KL alone, {short_label(one)}": found.alone[layer, one] for one in found.schemes},
        }
        for layer in found.layers
    )
