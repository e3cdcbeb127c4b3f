"""Do plans win, and is the estimate of each layer's cost good enough to plan with?

    python -m benchmarks.plans                              the reference model; about ten minutes on two cores
    python -m benchmarks.plans --model FOLDER --direct 0    a larger one, the direct costs of every layer left out

Costs    what each layer costs alone under eight schemes: estimated from backward passes (`fisher`), and measured a run
         a layer; seconds of both, and Spearman's rank correlation of the layers, scheme by scheme
Plans    for each uniform scheme the plan of as many bits, chosen by the estimates on one text; both measured on
         another, the difference judged as on the pages, beyond the chance of the text and of rounding luck

Writes `benchmarks/results/plans.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from benchmarks.machine import describe
from quantcore.lab.bench import EACH, LEARNED
from quantcore.lab.lab import Lab
from quantcore.lab.whole import uniform_bits
from quantcore.measure.planning import plan_for_budget
from quantcore.measure.sensitivity import Sensitivity
from quantcore.measure.told_apart import apart_of
from quantcore.model.loading import REFERENCE
from quantcore.text.reading import EVALUATE

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "plans.json"
WIDTHS = (2, 3, 4, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=REFERENCE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--direct", type=int, default=2, help="of so many schemes the costs are measured too")
    parser.add_argument("--tokens", type=int, default=16384, help="that plans are judged on")
    parser.add_argument("--luck", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    lab = Lab(options.model, options.device)
    schemes = tuple(str(lab.plan_of(f"w:int{bits}/{grain}")) for grain in (lab.grain, "group32") for bits in WIDTHS)
    result: dict[str, Any] = {"machine": describe(), "model": options.model, "schemes": schemes}
    costs, result["costs"] = measured(lab, schemes, options.direct)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result["plans"] = plans(lab, costs, options.tokens, options.luck)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(lab: Lab, schemes: tuple[str, ...], direct: int) -> tuple[Sensitivity, dict[str, Any]]:
    lab.tokens(EACH), lab.tokens(LEARNED), lab.model  # noqa: B018    loaded before the clock starts
    started = time.perf_counter()
    estimated = lab.sensitivity(schemes, estimated=True)
    found: dict[str, Any] = {"layers": len(estimated.layers), "estimated_s": time.perf_counter() - started, "ranks": {}}
    print(f"{len(schemes)} schemes, {len(estimated.layers)} layers: estimated in {found['estimated_s']:.1f} s")
    for scheme in schemes[:direct]:
        started = time.perf_counter()
        known = lab.sensitivity((scheme,))
        seconds = time.perf_counter() - started
        pairs = [(known.alone[layer, scheme], estimated.alone[layer, scheme]) for layer in known.layers]
        rank = float(spearmanr(*zip(*pairs, strict=True)).statistic)
        found["ranks"][scheme] = {"spearman": rank, "measured_s": seconds}
        print(f"{scheme}: rank correlation {rank:.3f}, measured in {seconds:.1f} s")
    return estimated, found


def plans(lab: Lab, costs: Sensitivity, tokens: int, luck: bool) -> list[dict[str, Any]]:
    bits = uniform_bits(costs)
    least = min(bits.values())
    pairs = {scheme: plan_for_budget(costs, its + 1e-6) for scheme, its in bits.items() if its > least}
    texts = {scheme: str(chosen.plan) for scheme, chosen in pairs.items()}
    reading = str(EVALUATE.at_most(tokens))
    asked = tuple(dict.fromkeys([*texts, *texts.values()]))
    duel = lab.duel(asked, reading)
    spreads = lab.luck(asked, reading) if luck else None
    aparts = apart_of(duel, [(plan, scheme) for scheme, plan in texts.items() if plan != scheme], spreads)
    rows = []
    for scheme, chosen in sorted(pairs.items(), key=lambda pair: bits[pair[0]]):
        plan, kl = texts[scheme], {text: duel.reports[text].kl for text in (scheme, texts[scheme])}
        row = {"uniform": scheme, "bits": bits[scheme], "plan": plan, "plan_bits": chosen.bits_per_weight}
        row |= {"kl": kl[scheme], "plan_kl": kl[plan], "predicted_kl": chosen.predicted_kl}
        if (apart := aparts.get((plan, scheme))) is not None:
            row |= {"share": apart.share, "luck": apart.luck, "p": apart.p, "verdict": apart.verdict}
        rows.append(row)
        print(
            f"{bits[scheme]:.3f} bits: {scheme} {kl[scheme]:.4f}, plan {kl[plan]:.4f}; {row.get('verdict', 'the same')}"
        )
    return rows


if __name__ == "__main__":
    main()
