"""Do plans win, and is the estimate of each layer's cost good enough to plan with?

    python -m benchmarks.plans costs                            the reference model
    python -m benchmarks.plans plans --uniform w:int4/group128  one budget; a few minutes on two cores
    python -m benchmarks.plans plans --tokens 20480 --device cuda   all, on more text, on a GPU
    python -m benchmarks.plans costs --model FOLDER --layers 60 --schemes w:int4/group64

costs    what each layer costs alone under a scheme: estimated from backward passes (`fisher`), and measured a run a
         layer; seconds of both, and Spearman's rank correlation over the layers, or over so many of them, evenly spread
         in the model's order
plans    for each uniform scheme of UNIFORM the plan of as many bits, made of whole bits in three granularities, chosen
         by estimates and mended in place (`probing`) on the calibration text; both measured on the evaluation text, the
         difference judged as on the pages, beyond the chance of the text and of rounding luck; `holm`: its p corrected
         for all budgets that are in the file for this model and so many tokens

All that is measured is kept in QUANT_HOME, so a run that was cut off goes on where it stood, and what is found is
written at once: `benchmarks/results/plans.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, put_row
from quantcore.lab.bench import EACH, LEARNED, PLANNED_ON
from quantcore.lab.lab import Lab
from quantcore.measure.planning import schemes_near
from quantcore.measure.sensitivity import layer_costs
from quantcore.measure.statistics import holm
from quantcore.measure.told_apart import apart_of
from quantcore.model.locate import REFERENCE
from quantcore.text.reading import EVALUATE

UNIFORM = ("w:int3/group128", "w:int3/group32", "w:int4/group128", "w:int5/group128")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("costs", "plans"))
    parser.add_argument("--model", default=REFERENCE)
    parser.add_argument("--name", help="what the model is called in the file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--schemes", nargs="+", help="costs: whose; two usual ones where nothing is said")
    parser.add_argument("--layers", type=int, help="costs: measure so many layers alone, evenly spread; else all")
    parser.add_argument("--uniform", nargs="+", default=UNIFORM, help="plans: the schemes for all that are challenged")
    parser.add_argument("--tokens", type=int, default=5120, help="plans: that they are judged on")
    parser.add_argument("--out", type=Path, default=RESULTS / "plans.json")
    options = parser.parse_args()
    lab = Lab(options.model, options.device, name=options.name)
    if options.part == "costs":
        costs(lab, options.schemes or [f"w:int{bits}/{lab.grain}" for bits in (2, 3)], options.layers, options.out)
    else:
        plans(lab, options.uniform, options.tokens, options.out)


def costs(lab: Lab, schemes: list[str], layers: int | None, out: Path) -> None:
    lab.tokens(EACH), lab.tokens(LEARNED), lab.model  # noqa: B018    loaded before the clock starts
    schemes = [str(lab.plan_of(text)) for text in schemes]
    was_kept = lab.kept_sensitivity(schemes, False, EACH, LEARNED, True) is not None
    started = time.perf_counter()
    estimated = lab.sensitivity(schemes, estimated=True)
    seconds = None if was_kept else time.perf_counter() - started
    sample = spread(list(estimated.layers), layers)
    for scheme in schemes:
        started = time.perf_counter()
        known = layer_costs(lab.model, scheme, lab.tokens(EACH), calibration=lab.tokens(LEARNED), only=sample).alone
        rank = float(spearmanr([known[one] for one in sample], [estimated.alone[one, scheme] for one in sample])[0])
        found = {
            "scheme": scheme,
            "spearman": rank,
            "layers": len(sample),
            "of": len(estimated.layers),
            "estimated_s": seconds,
            "estimated_schemes": len(schemes),
            "measured_s": time.perf_counter() - started,
            "machine": describe(),
        }
        print(json.dumps({key: value for key, value in found.items() if key != "machine"}))
        put_row(out, "costs", f"{lab.id} {scheme}", found)


def spread(layers: list[str], count: int | None) -> list[str]:
    """So many of the layers, evenly spread in the model's order, so that all depths and kinds are among them."""
    if count is None or count >= len(layers):
        return layers
    return [layers[int(place)] for place in torch.linspace(0, len(layers) - 1, count).round().long()]


def plans(lab: Lab, uniform: list[str], tokens: int, out: Path) -> None:
    reading = str(EVALUATE.at_most(tokens))
    tokens = lab.tokens(reading).numel()  # no more than the text has
    for scheme in map(str, map(lab.plan_of, uniform)):
        bits = lab.bits_of_all(scheme)
        asked = schemes_near(bits, ("channel", lab.grain, "group32")), bits
        was_kept, started = lab.kept_probed_plan(*asked) is not None, time.perf_counter()
        found = lab.probed_plan(*asked)
        seconds, plan = None if was_kept else time.perf_counter() - started, str(found.chosen.plan)
        spreads = lab.luck((scheme, plan), reading)
        duel = lab.duel((scheme, plan), reading)
        kl = {text: one.kl for text, one in duel.reports.items()}
        row: dict[str, Any] = {"uniform": scheme, "bits": bits, "plan": plan, "plan_bits": found.chosen.bits_per_weight}
        row |= {"kl": kl[scheme], "plan_kl": kl[plan], "tokens": tokens, "chosen_on": PLANNED_ON}
        row |= {
            "by_costs_alone": found.start_kl,
            "uniform_there": found.uniform_kl,
            "plan_there": found.chosen.predicted_kl,
        }
        row |= {"probes": found.probes, "changed": found.changed, "planned_s": seconds, "machine": describe()}
        if (apart := apart_of(duel, [(plan, scheme)], spreads).get((plan, scheme))) is not None:
            row |= {"share": apart.share, "luck": apart.luck, "p": apart.p, "verdict": apart.verdict}
        print(f"{bits:.3f} bits: {scheme} {kl[scheme]:.4f}, plan {kl[plan]:.4f}; {row.get('verdict')}")
        put_row(out, "plans", f"{lab.id} {scheme}", row)
    corrected(lab.id, tokens, out)


def corrected(model: str, tokens: int, out: Path) -> None:
    """Write to each budget's row its p after Holm over all of them."""
    rows: dict[str, dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["plans"]
    mine = {key: row for key, row in rows.items() if key.startswith(f"{model} ") and row["tokens"] == tokens}
    for key, p in holm({key: row["p"] for key, row in mine.items() if "p" in row}).items():
        put_row(out, "plans", key, mine[key] | {"holm": p})
        print(f"{key}: p {mine[key]['p']:.4f}, after Holm {p:.4f}")


if __name__ == "__main__":
    main()
