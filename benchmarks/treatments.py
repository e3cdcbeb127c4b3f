"""What moving outliers buys, before and beside GPTQ: KL on one text, calibrated on another, with paired intervals.

    python -m benchmarks.treatments                          the reference model, results/treatments.json
    python -m benchmarks.treatments W4A4 --model FILE.gguf --name SmolLM2-135M --device cuda

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

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore import compare, load_model, quantize_model
from quantcore.measure.statistics import Interval, paired_interval
from quantcore.model.linears import linear_shapes
from quantcore.model.loading import LoadedModel
from quantcore.scheme.fitting import plan_for
from quantcore.text.windows import bundled_text, token_windows

STATIC = "w:int8/channel,a:int8/tensor/static"
CONTESTS = {
    "W8A8 static": [
        STATIC,
        *(f"{STATIC},smooth={words}" for words in ("0.5", "0.7", "0.5/all", "0.7/all", "0.85/all")),
    ],
    "W8A8 static, down_proj float": [f"{STATIC},skip=down_proj{more}" for more in ("", ",smooth=0.5", ",smooth=0.7")],
    "W4A4": [
        "W4A4",
        "W4A4,rotate=hadamard",
        "W4A4,rotate=random",
        "W4A4,rotate=hadamard,gptq",
        "W4A4,rotate=hadamard,smooth=0.6/all",
        "W4A4,rotate=hadamard/r4",
        "W4A4,rotate=hadamard/r4,gptq",
        "W4A4,quip=hadamard",
        "W4A4,quip=hadamard/128",
        "W4A4,wush=128",
    ],
    "W4A4, blocks of 64": ["W4A4", "W4A4,quip=hadamard/64", "W4A4,wush=64"],
    **{
        f"W{bits} g128": [
            f"W{bits}A16{more}"
            for more in ("", ",awq", ",gptq", ",awq,gptq", ",qronos", ",gptaq", ",clip", ",awq,clip", ",awq,qronos")
        ]
        for bits in (4, 3)
    },
    "MXFP4": ["MXFP4", "MXFP4,smooth=0.6/all", "MXFP4,quip=hadamard/32", "MXFP4,wush=32", "MXFP4,wush=32,gptq"],
}
PAIRS = (
    ("gptq", "qronos"), ("gptq", "qronos/share=1"), ("gptq", "gptaq"), ("gptaq", "qronos"), ("awq", "awq,clip"),
    ("awq", "gptq"), ("gptq", "awq,gptq"), ("rotate=hadamard", "rotate=hadamard/r4"), ("quip=hadamard/128", "wush=128"),
    ("quip=hadamard/64", "wush=64"), ("quip=hadamard/32", "wush=32"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contests", nargs="*", default=list(CONTESTS), help=f"of {', '.join(CONTESTS)}")
    parser.add_argument("--model", default="reference")
    parser.add_argument("--name", help="what the model is called in the file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=16384, help="of each text")
    parser.add_argument("--out", type=Path, default=RESULTS / "treatments.json")
    args = parser.parse_args()
    lm = load_model(args.model, args.device)
    calibration = token_windows(lm.tokenizer, bundled_text("calibration"), 512, limit=args.tokens)
    evaluation = token_windows(lm.tokenizer, bundled_text("evaluation"), 256, limit=args.tokens)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    mine = found.setdefault(args.name or Path(args.model).name, {})
    asked = {"machine": describe(), "calibration_tokens": calibration.numel(), "evaluation_tokens": evaluation.numel()}
    for contest in args.contests:
        kept = mine.get(contest, {})
        rows = kept["rows"] if {**kept, "rows": 0, "pairs": 0} == {**asked, "rows": 0, "pairs": 0} else []
        for text in CONTESTS[contest]:
            if text in [row["scheme"] for row in rows]:
                continue
            try:
                row = measured(lm, text, calibration, evaluation)
            except ValueError as error:  # a turn of 128 channels where 128 does not divide the model's width
                print(f"{text}: {error}", flush=True)
                continue
            less = paired(row, rows[0] if rows else row)
            rows.append(row | {"kl less": _ends(less), "x": round((rows[0] if rows else row)["kl"] / row["kl"], 2)})
            print({name: one for name, one in rows[-1].items() if name not in ("windows", "in full")}, flush=True)
            mine[contest] = {**asked, "rows": rows, "pairs": pairs_of(rows)}
            write(args.out, found)
        print(mine[contest]["pairs"])


def pairs_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """KL of one scheme minus that of another, where both are there, and whether that is beyond chance."""
    known = {row["scheme"].split(",", 1)[-1]: row for row in rows}
    found: dict[str, Any] = {}
    for one, other in PAIRS:
        if {one, other} <= set(known):
            less = paired(known[other], known[one])
            found[f"{one} minus {other}"] = {"kl": _ends(less), "beyond chance": less.significant}
    return found


def measured(lm: LoadedModel, text: str, calibration: Tensor, evaluation: Tensor) -> dict[str, Any]:
    """A scheme by itself; the mean KL of each window, by which schemes are paired."""
    plan = plan_for(text, linear_shapes(lm.model))
    started = time.perf_counter()
    quantized, _ = quantize_model(lm.model, plan, calibration=calibration)
    seconds = time.perf_counter() - started
    found = compare(lm.model, {text: quantized}, evaluation)
    report = found.reports[text]
    return {
        "scheme": text,
        "in full": str(plan),
        "kl": round(report.kl, 5),
        "perplexity": round(report.perplexity, 3),
        "float": round(report.float_perplexity, 3),
        "bits": round(report.bits_per_weight, 3),
        "seconds": round(seconds, 1),
        "windows": [round(one, 6) for one in found.scores[text].kl.double().mean(1).tolist()],
    }


def paired(row: dict[str, Any], first: dict[str, Any]) -> Interval:
    """The first scheme's KL minus the row's, over windows."""
    return paired_interval(torch.tensor(first["windows"])[:, None], torch.tensor(row["windows"])[:, None])


def _ends(interval: Interval) -> list[float]:
    """Value, and its interval's ends."""
    return [round(one, 5) for one in (interval.value, interval.lo, interval.hi)]


if __name__ == "__main__":
    main()
