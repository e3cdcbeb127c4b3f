"""What moving outliers buys, before and beside GPTQ: KL on one text, calibrated on another, with paired intervals.

    python -m benchmarks.treatments                          the reference model, results/treatments.json
    python -m benchmarks.treatments W4A4 --model a/folder    one contest, another model

In each contest the first scheme is what the others are compared with: `kl less` is its KL minus theirs, with the 95%
interval over windows, and `x` how many times smaller theirs is. Seconds are of quantizing alone. Rows are kept as they
come, so that a contest can be run by itself.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.machine import describe
from quantcore import compare, load_model, quantize_model
from quantcore.measure.statistics import Interval
from quantcore.model.linears import linear_shapes
from quantcore.model.loading import LoadedModel
from quantcore.scheme.fitting import plan_for
from quantcore.text.windows import bundled_text, token_windows

RESULTS = Path(__file__).parent / "results"
STATIC = "w:int8/channel,a:int8/tensor/static"
CONTESTS = {
    "W8A8 static": [
        STATIC,
        *(f"{STATIC},smooth={words}" for words in ("0.5", "0.5/all", "0.7/all", "0.85/all")),
    ],
    "W4A4": ["W4A4", "W4A4,rotate=hadamard", "W4A4,rotate=random", "W4A4,rotate=hadamard,gptq"],
    "W4 g128": ["W4A16", "W4A16,awq", "W4A16,gptq", "W4A16,awq,gptq", "W4A16,qronos", "W4A16,awq,qronos"],
    "W3 g128": ["W3A16", "W3A16,awq", "W3A16,gptq", "W3A16,awq,gptq", "W3A16,qronos", "W3A16,awq,qronos"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contests", nargs="*", default=list(CONTESTS), help=f"of {', '.join(CONTESTS)}")
    parser.add_argument("--model", default="reference")
    parser.add_argument("--tokens", type=int, default=16384, help="of each text")
    parser.add_argument("--out", type=Path, default=RESULTS / "treatments.json")
    args = parser.parse_args()
    lm = load_model(args.model)
    calibration = token_windows(lm.tokenizer, bundled_text("calibration"), 512, limit=args.tokens)
    evaluation = token_windows(lm.tokenizer, bundled_text("evaluation"), 256, limit=args.tokens)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    mine = found.setdefault(Path(args.model).name, {})
    for contest in args.contests:
        mine[contest] = {
            "machine": describe(),
            "calibration_tokens": calibration.numel(),
            "evaluation_tokens": evaluation.numel(),
            "rows": contest_of(lm, CONTESTS[contest], calibration, evaluation),
        }
        args.out.write_text(json.dumps(found, indent=1) + "\n")


def contest_of(lm: LoadedModel, schemes: list[str], calibration: Tensor, evaluation: Tensor) -> list[dict[str, Any]]:
    """A row for each scheme, beside the first."""
    candidates: dict[str, nn.Module] = {}
    seconds: dict[str, float] = {}
    shapes = linear_shapes(lm.model)
    for text in schemes:
        started = time.perf_counter()
        candidates[text], _ = quantize_model(lm.model, plan_for(text, shapes), calibration=calibration)
        seconds[text] = time.perf_counter() - started
    found = compare(lm.model, candidates, evaluation)
    rows = []
    for text in schemes:
        report, less = found.reports[text], found.kl_difference(schemes[0], text)
        rows.append(
            {
                "scheme": text,
                "in full": str(plan_for(text, shapes)),
                "kl": round(report.kl, 5),
                "kl less": _ends(less),
                "x": round(found.reports[schemes[0]].kl / report.kl, 2),
                "perplexity": round(report.perplexity, 3),
                "float": round(report.float_perplexity, 3),
                "bits": round(report.bits_per_weight, 3),
                "seconds": round(seconds[text], 1),
            }
        )
        print(rows[-1], flush=True)
    if "W3A16,gptq" in schemes or "W4A16,gptq" in schemes:
        bits = schemes[0]
        pair = found.kl_difference(f"{bits},gptq", f"{bits},qronos")
        rows.append({"scheme": "gptq minus qronos", "kl less": _ends(pair), "significant": pair.significant})
        print(rows[-1], flush=True)
    return rows


def _ends(interval: Interval) -> list[float]:
    """Value, and its interval's ends."""
    return [round(one, 5) for one in (interval.value, interval.lo, interval.hi)]


if __name__ == "__main__":
    main()
