"""Are coded scales worth it? INT4, MXFP4 and NVFP4, inputs float and rounded as well, each by several methods.

    python -m benchmarks.coded_scales duel                  the reference model
    python -m benchmarks.coded_scales duel --model FILE.gguf --name SmolLM2-135M --device cuda
    python -m benchmarks.coded_scales search                what searching the scales wins

duel     every scheme against the float model: perplexity and KL; of each format the method that loses least, and those
         compared in pairs, window by window, with 95% intervals, corrected for as many pairs
search   the mean over all layers of (search's / min-max's), of squared errors and of GPTQ's losses

A scheme at a time is measured, kept in QUANT_HOME and written to `benchmarks/results/coded_scales.json`; a run that was
cut off goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.rows import put_row
from quantcore.lab.lab import Lab
from quantcore.measure.told_apart import apart_of
from quantcore.methods.gptq import gptq_loss, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.model.linears import linears
from quantcore.model.loading import REFERENCE
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.numbers.spec import Search
from quantcore.pipeline.calibration import calibrate
from quantcore.scheme.scheme import PRESETS
from quantcore.text.reading import CALIBRATE, EVALUATE

GPTQ = "gptq/actorder=weight"
NVFP4, INPUTS = "w:fp4_e2m1/group16/e4m3", "a:fp4_e2m1/group16/e4m3/local"
SCHEMES = {
    "INT4": ["W4A16", f"W4A16,{GPTQ}"],
    "MXFP4A16": ["MXFP4A16", "MXFP4A16,clip", f"MXFP4A16,{GPTQ}"],
    "NVFP4A16": ["NVFP4A16", f"{NVFP4}/search", "NVFP4A16,clip", f"NVFP4A16,{GPTQ}", f"{NVFP4}/search,{GPTQ}"],
    "INT4, inputs too": ["W4A4", f"W4A4,{GPTQ}", f"W4A4,rotate=hadamard,{GPTQ}"],
    "MXFP4": ["MXFP4", f"MXFP4,{GPTQ}"],
    "NVFP4": ["NVFP4", f"NVFP4,{GPTQ}", f"{NVFP4}/search,{INPUTS},{GPTQ}"],
}
WEIGHTS_ALONE = ("INT4", "MXFP4A16", "NVFP4A16")
SEARCHED = ("NVFP4A16", "MXFP4A16")
RESULTS = Path(__file__).parent / "results" / "coded_scales.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("duel", "search"))
    parser.add_argument("--model", default=REFERENCE)
    parser.add_argument("--name", help="what the model is called in the file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=5120, help="that schemes are measured on")
    parser.add_argument("--learned", type=int, default=5120, help="tokens that GPTQ learns from")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    lab = Lab(options.model, options.device, name=options.name)
    read, learned = str(EVALUATE.at_most(options.tokens)), str(CALIBRATE.at_most(options.learned))
    if options.part == "search":
        put_row(options.out, lab.id, "search", searched(lab, learned))
    else:
        duel(lab, read, learned, options.out)


def duel(lab: Lab, read: str, learned: str, out: Path) -> None:
    names = {text: str(lab.plan_of(text)) for texts in SCHEMES.values() for text in texts}
    rows: list[dict[str, Any]] = []
    for form, texts in SCHEMES.items():
        for text in texts:
            report = lab.duel((text,), read, learned).reports[names[text]]
            row = {"format": form, "scheme": text, "kl": report.kl, "perplexity": report.perplexity}
            row |= {"float_perplexity": report.float_perplexity, "bits_per_weight": lab.bits_of_all(text)}
            rows.append(row)
            print(f"{text}: KL {report.kl:.4g}, perplexity {report.perplexity:.4g}", flush=True)
            asked = {"machine": describe(), "text": read, "learned": learned}
            put_row(out, lab.id, "duel", {**asked, "rows": rows, "pairs": []})
    best = {form: min(texts, key=lambda text: kl_of(rows, text)) for form, texts in SCHEMES.items()}
    whole = lab.duel(tuple(best.values()), read, learned)  # all are kept by now
    groups = (WEIGHTS_ALONE, tuple(form for form in SCHEMES if form not in WEIGHTS_ALONE))
    pairs = [(best[one], best[other]) for group in groups for one, other in combinations(group, 2)]
    aparts = apart_of(whole, [(names[one], names[other]) for one, other in pairs])
    told = []
    for one, other in pairs:
        found = aparts[names[one], names[other]]
        ends = {"kl": found.difference.value, "lo": found.difference.lo, "hi": found.difference.hi, "p": found.p}
        told.append({"scheme": one, "minus": other, **ends, "share": found.share, "beyond": found.beyond})
    put_row(out, lab.id, "duel", {**asked, "rows": rows, "best": best, "pairs": told})
    print(json.dumps(told, indent=1))


def kl_of(rows: list[dict[str, Any]], text: str) -> float:
    return next(float(row["kl"]) for row in rows if row["scheme"] == text)


def searched(lab: Lab, learned: str) -> dict[str, Any]:
    """The mean over the layers of (search's / min-max's), of squared errors rounded to nearest and of GPTQ's losses."""
    stats = calibrate(lab.model, lab.tokens(learned))
    layers = {name: one.weight.detach().float() for name, one in linears(lab.model).items() if name in stats}
    found: dict[str, Any] = {"machine": describe(), "learned": learned}
    for preset in SEARCHED:
        spec = PRESETS[preset].weights
        assert spec is not None
        wider = replace(spec, observer=Search())
        squared = torch.tensor([error(w, wider) / error(w, spec) for w in layers.values()])
        losses = torch.tensor(
            [loss(w, stats[name].hessian, wider) / loss(w, stats[name].hessian, spec) for name, w in layers.items()]
        )
        found[preset] = {
            "layers": len(layers),
            "squared_error": float(squared.mean()),
            "squared_error_worst": float(squared.max()),
            "gptq_loss": float(losses.mean()),
            "gptq_layers_better": int((losses < 1).sum()),
        }
        print(preset, found[preset], flush=True)
    return found


def error(weight: Tensor, spec: Any) -> float:
    return float((dequantize(quantize(weight, spec)) - weight).square().sum(dtype=torch.float64))


def loss(weight: Tensor, hessian: Any, spec: Any) -> float:
    return gptq_loss(weight, dequantize(gptq_quantize(weight, hessian, spec, Gptq("weight"))), hessian)


if __name__ == "__main__":
    main()
