"""How long a duel takes, whether its figures are right, and whether plans beat uniform schemes, on the reference model.

    python -m benchmarks.duel                    prints tables, writes benchmarks/results/duel.json

- four schemes, rounded to nearest, on 16,384 tokens of the bundled text, from an empty store; then again, from it
- the float model's perplexity beside a plain transformers loop
- plans at the budgets of W3A16 and W4A16: KL predicted and measured beside the uniform scheme's, on PLAN_TOKENS tokens
  and on as many others that the plan has not seen
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore.measure.duel import duel
from quantcore.measure.planning import plan_for_budget
from quantcore.measure.sensitivity import sensitivity
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel, load_model
from quantcore.text.windows import TEXT_KINDS, bundled_text, token_windows

SCHEMES = ["W8A8", "W4A16", "w:int4/channel", "W3A16"]
UNIFORM = ["W2A16", "W3A16", "W4A16", "W8A16"]
TOKENS, PLAN_TOKENS, WINDOW = 16384, 2560, 256


def windows(lm: LoadedModel, split: str, tokens: int) -> Tensor:
    share = tokens // len(TEXT_KINDS) // WINDOW * WINDOW
    return torch.cat([token_windows(lm.tokenizer, bundled_text(split, kind), WINDOW, share) for kind in TEXT_KINDS])


def speed(lm: LoadedModel) -> dict[str, Any]:
    tokens = token_windows(lm.tokenizer, bundled_text("evaluation"), WINDOW, TOKENS)
    calibration = windows(lm, "calibration", PLAN_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        took = []
        for _ in range(2):
            started = time.perf_counter()
            found = duel(lm, SCHEMES, tokens, calibration, Store(Path(folder)))
            took.append(time.perf_counter() - started)
    losses = []
    with torch.inference_mode():
        for row in tokens:
            losses.append(float(lm.model(row[None], labels=row[None]).loss))
    ours = next(iter(found.reports.values())).float_perplexity
    plain = math.exp(sum(losses) / len(losses))
    return {
        "tokens": tokens.numel(),
        "first_s": took[0],
        "again_s": took[1],
        "perplexity": ours,
        "plain_loop_perplexity": plain,
        "kl": {text: report.kl for text, report in found.reports.items()},
    }


def plans(lm: LoadedModel) -> list[dict[str, Any]]:
    seen = windows(lm, "evaluation", PLAN_TOKENS)
    unseen = windows(lm, "evaluation", 2 * PLAN_TOKENS)
    unseen = torch.stack([row for row in unseen if not any(torch.equal(row, other) for other in seen)])
    started = time.perf_counter()
    found = sensitivity(lm.model, UNIFORM, seen)
    seconds = time.perf_counter() - started
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("W3A16", found.schemes[1]), ("W4A16", found.schemes[2])):
            budget = found.mean_bits(dict.fromkeys(found.layers, text))
            chosen = plan_for_budget(found, budget)
            row: dict[str, Any] = {
                "budget_of": name,
                "budget": budget,
                "plan_bits": chosen.bits_per_weight,
                "predicted_kl": chosen.predicted_kl,
                "plan": str(chosen.plan),
                "sensitivity_s": seconds,
            }
            for where, tokens in (("seen", seen), ("unseen", unseen)):
                pair = duel(lm, [str(chosen.plan), text], tokens, seen, Store(Path(folder)))
                difference = pair.kl_difference(str(chosen.plan), text)
                row[where] = {
                    "tokens": tokens.numel(),
                    "plan_kl": pair.reports[str(chosen.plan)].kl,
                    "uniform_kl": pair.reports[text].kl,
                    "difference": [difference.value, difference.lo, difference.hi],
                }
            rows.append(row)
    return rows


def main() -> None:
    lm = load_model("reference", "cpu")
    result = {"machine": describe(), "duel": speed(lm), "plans": plans(lm)}
    write(RESULTS / "duel.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
