"""What the page Which layers hurt says: who hurts most, what a plan costs, and whether it beats one scheme for all."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from quantcore.measure.duel import Duel, short_label
from quantcore.measure.sensitivity import PlannedChoice, Sensitivity


def ranking_words(costs: Mapping[str, float], whole: float, all_but: bool) -> str:
    worst = sorted(costs, key=lambda layer: -costs[layer])
    total = sum(costs.values())
    few = worst[: max(1, len(worst) // 10)]
    share = sum(costs[layer] for layer in few) / total if total else 0.0
    if all_but:
        return (
            f"With all layers quantized the KL is **{whole:.4g}** nats; leaving `{worst[-1]}` float helps most and "
            f"brings it to **{costs[worst[-1]]:.4g}**."
        )
    return (
        f"`{worst[0]}` hurts most, **{costs[worst[0]]:.3g}** nats alone; `{worst[-1]}` least, {costs[worst[-1]]:.2g}. "
        f"The worst {len(few)} of {len(worst)} layers hold **{share:.0%}** of the sum. The sum over all layers is "
        f"{total:.4g}, the whole model's KL {whole:.4g} nats: errors of layers "
        f"{'nearly add up' if abs(total / whole - 1) < 0.25 else 'do not simply add up'}."
    )


def so_far_words(costs: Mapping[str, float], count: int, all_but: bool) -> str:
    if all_but:
        most = min(costs, key=lambda layer: costs[layer])
        return f"**So far**, {len(costs)} of {count} layers: leaving `{most}` float brings the KL down the most."
    most = max(costs, key=lambda layer: costs[layer])
    return f"**So far**, {len(costs)} of {count} layers: `{most}` hurts most, {costs[most]:.3g} nats alone."


def plan_words(chosen: PlannedChoice, found: Duel | None, rival: str | None, rival_bits: float | None) -> list[str]:
    """The plan's bits, its KL as predicted and as measured, and the scheme for all next to it."""
    text = str(chosen.plan)
    measured = "" if found is None else f", measured **{found.reports[text].kl:.4g}**."
    said = [
        f"The plan takes **{chosen.bits_per_weight:.3f}** bits a weight; predicted KL (sum of the layers' own) "
        f"**{chosen.predicted_kl:.4g}** nats{measured or '.'}"
    ]
    if found is not None and rival is not None and rival != text:
        difference = found.kl_difference(text, rival)
        how = "beyond chance" if difference.significant else "within chance"
        said.append(
            f"{short_label(rival)} for all takes {rival_bits:.3f} bits and has KL {found.reports[rival].kl:.4g}: the "
            f"plan's is {difference.value:+.4g} ({how}; 95%: {difference.lo:+.3g} to {difference.hi:+.3g})."
        )
    return said


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
