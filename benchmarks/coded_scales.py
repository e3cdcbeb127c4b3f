"""Are coded scales worth it? INT4, MXFP4 and NVFP4 on the reference model, with the inputs float and rounded as well.

    python -m benchmarks.coded_scales               all; writes benchmarks/results/coded_scales.json
    python -m benchmarks.coded_scales search        one part alone

- a duel of every scheme against the float model: perplexity, KL, and the difference of KL to the first one's, window by
  window, with its interval
- what searching the scales wins: the mean share of min-max's squared error, and of GPTQ's loss, over all layers
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.duel import WINDOW, windows
from benchmarks.machine import describe
from quantcore.measure.duel import duel
from quantcore.measure.store import Store
from quantcore.methods.gptq import gptq_loss, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.model.linears import linears
from quantcore.model.loading import LoadedModel, load_model
from quantcore.numbers.bits import weight_size
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.numbers.spec import Search
from quantcore.pipeline.calibration import calibrate
from quantcore.scheme.scheme import PRESETS, Scheme

NVFP4, INPUTS = "w:fp4_e2m1/group16/e4m3", "a:fp4_e2m1/group16/e4m3/local"
SCHEMES = {
    "INT4 g128": "W4A16",
    "INT4 g128, GPTQ": "W4A16,gptq/actorder=weight",
    "MXFP4A16": "MXFP4A16",
    "MXFP4A16, GPTQ": "MXFP4A16,gptq/actorder=weight",
    "NVFP4A16": "NVFP4A16",
    "NVFP4A16, search": f"{NVFP4}/search",
    "NVFP4A16, GPTQ": "NVFP4A16,gptq/actorder=weight",
    "NVFP4A16, search and GPTQ": f"{NVFP4}/search,gptq/actorder=weight",
    "MXFP4": "MXFP4",
    "MXFP4, GPTQ": "MXFP4,gptq/actorder=weight",
    "NVFP4": "NVFP4",
    "NVFP4, search and GPTQ": f"{NVFP4}/search,{INPUTS},gptq/actorder=weight",
}
TOKENS, CALIBRATION = 5120, 2560
SEARCHED = ("NVFP4A16", "MXFP4A16")
RESULTS = Path(__file__).parent / "results" / "coded_scales.json"


def table(lm: LoadedModel, gptq: bool) -> list[dict[str, Any]]:
    """Of the schemes with GPTQ, or of those without; the first of all stands in both."""
    schemes = {name: text for name, text in SCHEMES.items() if text == "W4A16" or ("gptq" in text) == gptq}
    tokens, calibration = windows(lm, "evaluation", TOKENS), windows(lm, "calibration", CALIBRATION)
    with tempfile.TemporaryDirectory() as folder:
        found = duel(lm, list(schemes.values()), tokens, calibration, Store(Path(folder)))
    texts = dict(zip(schemes, found.reports, strict=True))
    first = next(iter(texts.values()))
    rows = []
    for name, text in texts.items():
        report = found.reports[text]
        row: dict[str, Any] = {
            "scheme": name,
            "text": text,
            "bits_per_weight": weight_bits(text),
            "perplexity": report.perplexity,
            "float_perplexity": report.float_perplexity,
            "kl": report.kl,
        }
        if text != first:
            difference = found.kl_difference(text, first)
            row["kl_minus_int4"] = [difference.value, difference.lo, difference.hi]
        rows.append(row)
    return rows


def weight_bits(text: str) -> float:
    weights = Scheme.parse(text).weights
    assert weights is not None
    return weight_size(weights, (384, 1024)).bits_per_weight


def search_wins(lm: LoadedModel) -> list[dict[str, Any]]:
    """The mean over the layers of (search's / min-max's), of squared errors rounded to nearest and of GPTQ's losses."""
    stats = calibrate(lm.model, windows(lm, "calibration", CALIBRATION))
    layers = {name: one.weight.detach() for name, one in linears(lm.model).items() if name in stats}
    rows = []
    for preset in SEARCHED:
        spec = PRESETS[preset].weights
        assert spec is not None
        searched = replace(spec, observer=Search())
        squared = torch.tensor([error(w, searched) / error(w, spec) for w in layers.values()])
        losses = torch.tensor(
            [loss(w, stats[name].hessian, searched) / loss(w, stats[name].hessian, spec) for name, w in layers.items()]
        )
        rows.append(
            {
                "scheme": preset,
                "layers": len(layers),
                "squared_error": float(squared.mean()),
                "squared_error_worst": float(squared.max()),
                "gptq_loss": float(losses.mean()),
                "gptq_layers_better": int((losses < 1).sum()),
            }
        )
    return rows


def error(weight: Tensor, spec: Any) -> float:
    return float((dequantize(quantize(weight, spec)) - weight).square().sum(dtype=torch.float64))


def loss(weight: Tensor, hessian: Any, spec: Any) -> float:
    return gptq_loss(weight, dequantize(gptq_quantize(weight, hessian, spec, Gptq("weight"))), hessian)


def main() -> None:
    asked = sys.argv[1:] or list(PARTS)
    lm = load_model("reference", "cpu")
    result: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    result |= {"machine": describe(), "tokens": TOKENS, "calibration_tokens": CALIBRATION, "window": WINDOW}
    for part in asked:
        result[part] = PARTS[part](lm)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result[part], indent=2), flush=True)


PARTS: dict[str, Callable[[LoadedModel], list[dict[str, Any]]]] = {
    "search": search_wins,
    "rounded": partial(table, gptq=False),
    "gptq": partial(table, gptq=True),
}

if __name__ == "__main__":
    main()
