"""What GPTQ buys: perplexity of the reference model on the bundled evaluation text, by bits, granularity and order.

    python -m benchmarks.gptq_quality             prints the table, writes results/gptq_quality.json

Calibrated on the bundled calibration text. Beside the table: the seconds that GPTQ of the whole model takes over 128
windows of 512 tokens, calibration included (the calibration text again and again, until there are as many).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from quantcore import compare, load_model, quantize_model
from quantcore.models import bundled_text, token_windows

RESULTS = Path(__file__).parent / "results"
METHODS = {"RTN": "", "GPTQ": ",gptq", "GPTQ, actorder weight": ",gptq/actorder=weight"}
GROUPED = {"GPTQ, actorder group": ",gptq/actorder=group"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gptq_quality.json")
    args = parser.parse_args()
    lm = load_model("reference")
    calibration = token_windows(lm.tokenizer, bundled_text("calibration"), limit=65536)
    evaluation = token_windows(lm.tokenizer, bundled_text("evaluation"), limit=65536)
    found: dict[str, Any] = {
        "machine": describe(),
        "calibration_tokens": calibration.numel(),
        "evaluation_tokens": evaluation.numel(),
        "rows": [],
    }
    for bits in (4, 3, 2):
        for grain in ("channel", "group128"):
            row: dict[str, Any] = {"weights": f"int{bits}/{grain}"}
            for name, method in (METHODS if grain == "channel" else METHODS | GROUPED).items():
                quantized, layers = quantize_model(lm.model, f"w:int{bits}/{grain}{method}", calibration=calibration)
                report = compare(lm.model, quantized, evaluation)
                row["float"], row[name] = round(report.float_perplexity, 3), round(report.perplexity, 3)
            found["rows"].append(row)
            print(row, flush=True)
    windows = calibration.repeat(-(-128 * 512 // calibration.numel()), 1)[: 128 * 512 // calibration.shape[1]]
    started = time.perf_counter()
    quantize_model(lm.model, "w:int4/group128,gptq", calibration=windows)
    found["whole model"] = {
        "tokens": windows.numel(),
        "seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
    }
    print(found["whole model"])
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
