"""What GPTQ buys: perplexity of the reference model on the bundled evaluation text, by bits, granularity and order.

    python -m benchmarks.gptq_quality                   prints the table, writes results/gptq_quality.json
    python -m benchmarks.gptq_quality int2/channel      this row alone, beside the others that the file holds

Calibrated on the bundled calibration text, damping 0.01, block by block. `below RTN` says in how many of the rows every
form of GPTQ ends below rounding to nearest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore import compare, load_model, quantize_model
from quantcore.model.loading import LoadedModel
from quantcore.text.windows import bundled_text, token_windows

WEIGHTS = [f"int{bits}/{grain}" for bits in (4, 3, 2) for grain in ("channel", "group128")]
METHODS = {"RTN": "", "GPTQ": ",gptq", "GPTQ, actorder weight": ",gptq/actorder=weight"}
GROUPED = {"GPTQ, actorder group": ",gptq/actorder=group"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", default=WEIGHTS, help=f"of {', '.join(WEIGHTS)}")
    parser.add_argument("--out", type=Path, default=RESULTS / "gptq_quality.json")
    args = parser.parse_args()
    lm = load_model("reference")
    calibration = token_windows(lm.tokenizer, bundled_text("calibration"), limit=65536)
    evaluation = token_windows(lm.tokenizer, bundled_text("evaluation"), limit=65536)
    held = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    rows: dict[str, dict[str, Any]] = {row["weights"]: row for row in held}
    for weights in args.weights:
        rows[weights] = perplexities(lm, weights, calibration, evaluation)
        print(rows[weights], flush=True)
        below = sum(all(row[name] < row["RTN"] for name in row if name.startswith("GPTQ")) for row in rows.values())
        found = {
            "machine": describe(),
            "calibration_tokens": calibration.numel(),
            "evaluation_tokens": evaluation.numel(),
            "below RTN": f"{below} of {len(rows)} rows",
            "rows": [rows[name] for name in WEIGHTS if name in rows],
        }
        write(args.out, found)


def perplexities(lm: LoadedModel, weights: str, calibration: Tensor, evaluation: Tensor) -> dict[str, Any]:
    """One row: of the float model, and of each method."""
    candidates = {
        name: quantize_model(lm.model, f"w:{weights}{method}", calibration=calibration)[0]
        for name, method in (METHODS if "channel" in weights else METHODS | GROUPED).items()
    }
    reports = compare(lm.model, candidates, evaluation).reports
    row: dict[str, Any] = {"weights": weights, "float": round(next(iter(reports.values())).float_perplexity, 3)}
    return row | {name: round(report.perplexity, 3) for name, report in reports.items()}


if __name__ == "__main__":
    main()
