"""Are coded scales worth it? INT4, MXFP4 and NVFP4, inputs float and rounded as well, each by several methods.

    python -m benchmarks.coded_scales duel                  the reference model
    python -m benchmarks.coded_scales duel --model FILE.gguf --name SmolLM2-135M --device cuda
    python -m benchmarks.coded_scales search                what searching the scales wins

duel     every scheme against the float model: perplexity and KL; of each format the method that loses least, and those
         compared in pairs, window by window, with 95% intervals, corrected for as many pairs; with --luck, beyond
         rounding luck too, where the scales may move (MXFP4's are powers of two)
search   scales searched by squared error, weighted with diag(H), and refined: means over all layers of what is left of
         min-max's measures, and of the losses that GPTQ leaves under each

A scheme at a time is measured and written to `benchmarks/results/coded_scales.json`; a run that was cut off, or that
new schemes were added to, goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, put_row
from quantcore.lab.lab import Lab
from quantcore.measure.luck import Spread
from quantcore.measure.told_apart import Apart, apart_of
from quantcore.methods.gptq import gptq_loss, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.methods.refine import refined
from quantcore.model.linears import linears
from quantcore.model.locate import REFERENCE
from quantcore.numbers.qtensor import dequantize, fake_quantize, qparams_for
from quantcore.numbers.spec import QuantSpec, Search
from quantcore.pipeline.calibration import calibrate
from quantcore.scheme.scheme import PRESETS
from quantcore.text.reading import CALIBRATE, EVALUATE

GPTQ = "gptq/actorder=weight"
NVFP4, INPUTS = "w:fp4_e2m1/group16/e4m3", "a:fp4_e2m1/group16/e4m3/local"
MXFP4 = "w:fp4_e2m1/group32/e8m0"
SCHEMES = {
    "INT4": ["W4A16", f"W4A16,{GPTQ}"],
    "MXFP4A16": [
        "MXFP4A16",
        f"{MXFP4}/search",
        f"{MXFP4}/search=h",
        f"{MXFP4}/search=h,refine",
        "MXFP4A16,clip",
        f"MXFP4A16,{GPTQ}",
        f"{MXFP4}/search=h,{GPTQ}",
    ],
    "NVFP4A16": [
        "NVFP4A16",
        f"{NVFP4}/search",
        f"{NVFP4}/search=h",
        f"{NVFP4}/search=h,refine",
        "NVFP4A16,clip",
        f"NVFP4A16,{GPTQ}",
        f"{NVFP4}/search,{GPTQ}",
        f"{NVFP4}/search=h,{GPTQ}",
    ],
    "INT4, inputs too": ["W4A4", f"W4A4,{GPTQ}", f"W4A4,rotate=hadamard,{GPTQ}"],
    "MXFP4": ["MXFP4", f"MXFP4,{GPTQ}"],
    "NVFP4": ["NVFP4", f"NVFP4,{GPTQ}", f"{NVFP4}/search,{INPUTS},{GPTQ}", f"{NVFP4}/search=h,{INPUTS},{GPTQ}"],
}
WEIGHTS_ALONE = ("INT4", "MXFP4A16", "NVFP4A16")
SEARCHED = ("NVFP4A16", "MXFP4A16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("duel", "search"))
    parser.add_argument("--model", default=REFERENCE)
    parser.add_argument("--name", help="what the model is called in the file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=5120, help="that schemes are measured on")
    parser.add_argument("--learned", type=int, default=5120, help="tokens that GPTQ learns from")
    parser.add_argument("--luck", action="store_true", help="of the best of each format: as many jitters more")
    parser.add_argument("--out", type=Path, default=RESULTS / "coded_scales.json")
    options = parser.parse_args()
    lab = Lab(options.model, options.device, name=options.name)
    read, learned = str(EVALUATE.at_most(options.tokens)), str(CALIBRATE.at_most(options.learned))
    if options.part == "search":
        put_row(options.out, lab.id, "search", searched(lab, learned))
    else:
        duel(lab, read, learned, options.luck, options.out)


def duel(lab: Lab, read: str, learned: str, luck: bool, out: Path) -> None:
    names = {text: str(lab.plan_of(text)) for texts in SCHEMES.values() for text in texts}
    asked = {"machine": describe(), "text": read, "learned": learned}
    rows = recorded(lab.id, asked, out)
    for form, texts in SCHEMES.items():
        for text in texts:
            if text in [row["scheme"] for row in rows]:
                continue
            report = lab.duel((text,), read, learned).reports[names[text]]
            row = {"format": form, "scheme": text, "kl": report.kl, "perplexity": report.perplexity}
            row |= {"float_perplexity": report.float_perplexity, "bits_per_weight": lab.bits_of_all(text)}
            rows.append(row)
            print(f"{text}: KL {report.kl:.4g}, perplexity {report.perplexity:.4g}", flush=True)
            rows.sort(key=lambda row: list(names).index(row["scheme"]))
            put_row(out, lab.id, "duel", {**asked, "rows": rows, "pairs": []})
    best = {form: min(texts, key=lambda text: kl_of(rows, text)) for form, texts in SCHEMES.items()}
    whole = lab.duel(tuple(best.values()), read, learned)
    groups = (WEIGHTS_ALONE, tuple(form for form in SCHEMES if form not in WEIGHTS_ALONE))
    pairs = [(best[one], best[other]) for group in groups for one, other in combinations(group, 2)]
    spreads: dict[str, Spread] = {}
    for text in (None, *(best.values() if luck else ())):  # at first by the text alone, so that pairs are there early
        spreads |= {} if text is None else lab.luck((text,), read, learned)
        aparts = apart_of(whole, [(names[one], names[other]) for one, other in pairs], spreads)
        told = [{"scheme": one, "minus": other, **told_of(aparts[names[one], names[other]])} for one, other in pairs]
        lucks = {text: spread.values for text, spread in spreads.items() if spread.freedom}
        put_row(out, lab.id, "duel", {**asked, "rows": rows, "best": best, "luck": lucks, "pairs": told})
    print(json.dumps(told, indent=1))


def recorded(model: str, asked: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """The rows of the file that were measured on the same texts and the same kind of machine."""
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    found: dict[str, Any] = known.get(model, {}).get("duel", {})
    same = all(found.get(name) == asked[name] for name in ("text", "learned"))
    alike = found.get("machine", {}).get("gpu") == asked["machine"].get("gpu")
    return list(found["rows"]) if same and alike else []


def told_of(apart: Apart) -> dict[str, Any]:
    difference = apart.difference
    ends = {"kl": difference.value, "lo": difference.lo, "hi": difference.hi, "p": apart.p}
    return ends | {"share": apart.share, "luck": apart.luck, "verdict": apart.verdict}


def kl_of(rows: list[dict[str, Any]], text: str) -> float:
    return next(float(row["kl"]) for row in rows if row["scheme"] == text)


def searched(lab: Lab, learned: str) -> dict[str, Any]:
    """Means over the layers, and the worst layer, of `measures`."""
    stats = calibrate(lab.model, lab.tokens(learned))
    layers = {name: one.weight.detach().float() for name, one in linears(lab.model).items() if name in stats}
    found: dict[str, Any] = {"machine": describe(), "learned": learned}
    for preset in SEARCHED:
        spec = PRESETS[preset].weights
        assert spec is not None
        ways = {"minmax": spec, **{str(way): replace(spec, observer=way) for way in (Search(), Search(True))}}
        rows = [measures(weight, stats[name].hessian, ways) for name, weight in layers.items()]
        found[preset] = {"layers": len(rows)}
        for measure in rows[0]:
            of_all = torch.tensor([row[measure] for row in rows])
            found[preset][measure] = {"mean": float(of_all.mean()), "worst": float(of_all.max())}
        print(preset, found[preset], flush=True)
    return found


def measures(weight: Tensor, hessian: Any, ways: Mapping[str, QuantSpec]) -> dict[str, float]:
    """Under scales of each way, over what min-max's leave rounded to nearest: squared error, weighted error (with
    diag(H)), the loss tr(E H E^T), E = W - W_hat, and GPTQ's loss."""
    found: dict[str, dict[str, float]] = {}
    power = hessian.diagonal()
    for way, spec in ways.items():
        e = weight - fake_quantize(weight, spec, qparams_for(weight, spec, power=power))
        squared = e.square().double()
        found[way] = {
            "squared error": float(squared.sum()),
            "weighted error": float((squared * power).sum()),
            "loss": gptq_loss(weight, weight - e, hessian),
        }
    base = found["minmax"]
    ratios = {f"{what}, {way}": one / base[what] for way, mine in found.items() for what, one in mine.items()}
    for way in ("minmax", "search=h"):
        left = gptq_loss(weight, dequantize(refined(weight, ways[way], hessian)), hessian)
        ratios[f"loss, {way}, refine"] = left / base["loss"]
    for way, spec in ways.items():
        left = gptq_loss(weight, dequantize(gptq_quantize(weight, hessian, spec, Gptq("weight"))), hessian)
        ratios[f"loss, {way}, GPTQ"] = left / base["loss"]
    return {name: one for name, one in ratios.items() if not name.endswith(", minmax")}


if __name__ == "__main__":
    main()
