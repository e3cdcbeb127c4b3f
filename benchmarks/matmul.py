"""What low precision buys on this machine: every path against 16-bit torch.matmul and against torch's own products.

    python -m benchmarks.matmul                        prints the tables, writes results/matmul.json as it goes
    python -m benchmarks.matmul --out FILE.json        elsewhere

Without a GPU a small set of shapes is measured, and the file is results/matmul_cpu.json.


- shapes       Llama-3-8B's layers: gate (K 4096, N 14336) with every number of tokens and scheme, the others with a few
- times        ms; on a GPU medians over CUDA graph replays of many calls in a row, each on another copy of the weight
               so that none is found in the L2 cache; `plain` one call launched from Python, cache flushed, between
               two events
- humming      the same of vLLM's kernels, where humming-kernels is installed: gate, every number of tokens
- codes        tokens to codes, and rounded under coded scales, 8192 x 4096 in bf16: the share of a device copy's
               bandwidth
- text         greedy tokens a second of the reference model, step by step and replayed from a CUDA graph
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.codes import measure_codes
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore import load_model, quantize_model
from quantcore.matmul.humming import installed
from quantcore.model.decode import GreedyDecoder
from quantcore.studies.speed import SpeedReport, SpeedRow, measure_paths
from quantcore.text.windows import prompt_tokens

TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
FEW_TOKENS = [1, 16, 512, 4096]
GATE = (14336, 4096)
OTHERS = {"q, o": (4096, 4096), "k, v": (1024, 4096), "down": (4096, 14336)}
STATIC_W8A8 = "w:int8/channel,a:int8/tensor/static"
TENSOR_W8A8 = "w:int8/channel,a:int8/tensor/dynamic"
TENSOR_FP8 = "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/dynamic"
W4A8 = ["w:int4/channel,a:int8/token/dynamic", "w:int4/group128,a:fp8_e4m3/token/dynamic"]
SCHEMES = [
    "W8A8", STATIC_W8A8, TENSOR_W8A8, "FP8", TENSOR_FP8, "FP8_DYNAMIC", "FP8_BLOCK",
    "W4A16", "W4A16_ASYM", "W4A16+g_idx", "W8A16", "NVFP4A16", "MXFP4A16", "MXFP8A16", *W4A8,
]  # fmt: skip
HUMMING = ["W8A8", "FP8_DYNAMIC", "W4A16", "W8A16", *W4A8]
FEW_SCHEMES = ["W8A8", "FP8", "FP8_DYNAMIC", "W4A16", "W8A16"]
CODES = [
    "int8/token/dynamic",
    "fp8_e4m3/token/dynamic",
    "int8/tensor/dynamic",
    "int8/tensor/static",
    "int8/token/asym/dynamic",
    "fp4_e2m1/group16/e4m3/local",
    "fp4_e2m1/group32/e8m0/dynamic",
    "fp8_e4m3/group32/e8m0/dynamic",
]
PROMPT = "The lighthouse keeper climbed the stairs and"


def measure_text(device: str, schemes: list[str], count: int) -> dict[str, dict[str, float]]:
    """Greedy tokens a second of the reference model under each scheme; the first run compiles and is not counted."""
    lm = load_model("reference", device)
    prompt, _ = prompt_tokens(lm.tokenizer, PROMPT, lm.context)
    calibration = prompt.repeat(1, 4)
    speeds: dict[str, dict[str, float]] = {}
    for scheme in schemes:
        model = lm.model if scheme == "float" else quantize_model(lm.model, scheme, calibration)[0]
        speeds[scheme] = {}
        for name, graph in (("step by step", False), ("graph", True)):
            if graph and device == "cpu":
                continue
            for _ in range(2):
                decoder = GreedyDecoder(model, 128, graph=graph)
                started = time.perf_counter()
                decoder.continue_(prompt, count).cpu()
                seconds = time.perf_counter() - started
            speeds[scheme][name] = count / seconds
    return speeds


def run(device: str, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All parts; `save` is given what there is after each, so that a run cut short is not lost."""
    on_gpu = device == "cuda"
    shapes = {"gate": GATE, **OTHERS} if on_gpu else {"gate / 8": (1792, 512)}
    report: dict[str, Any] = {"machine": describe(), "shapes": {}}
    for name, shape in shapes.items():
        full = name == "gate"
        tokens = TOKENS if full else FEW_TOKENS if on_gpu else [1, 16, 256]
        started = time.perf_counter()
        measured = measure_paths(shape, tokens, SCHEMES if full else FEW_SCHEMES, device)
        report["shapes"][name] = asdict(measured)
        print(f"\n{name}: K {shape[1]}, N {shape[0]}, {measured.device}, {time.perf_counter() - started:.0f} s")
        print(table(measured), flush=True)
        if full:
            report["bar"] = bar(measured)
        save(report)
    if on_gpu and installed():
        measured = measure_paths(GATE, TOKENS, HUMMING, device, path="humming")
        report["humming"] = asdict(measured)
        print(f"\nHumming, gate\n{table(measured)}", flush=True)
        save(report)
    report["codes"] = [
        asdict(one) | {"share_of_copy": one.share_of_copy}
        for one in measure_codes(8192 if on_gpu else 512, 4096, CODES, device)
    ]
    for one in report["codes"]:
        print(f"{one['spec']:28s} {one['ms']:.4f} ms, {one['share_of_copy']:.0%} of a copy's bandwidth")
    save(report)
    report["text"] = measure_text(device, ["float", "W8A8", "FP8_DYNAMIC", "W4A16"], 100 if on_gpu else 20)
    save(report)
    for scheme, speeds in report["text"].items():
        print(f"{scheme:12s}", ", ".join(f"{name} {speed:.0f} tokens/s" for name, speed in speeds.items()))
    for one in report.get("bar", []):
        print(f"{one['work']:62s} needs {one['needs']:.2f}, least {one['least']:.2f}, all {one['gains']}")
    return report


def table(report: SpeedReport) -> str:
    """One line a scheme and token count: milliseconds, then how many times as fast as the float product."""
    names = ("encode", "product", "total", "plain", "float", "library", "x float", "x plain", "x library")
    lines = [f"{'scheme':38s} {'path':11s} {'tokens':>6s} " + " ".join(f"{name:>9s}" for name in names)]
    for row in report.rows:
        times = (row.encode_ms, row.product_ms, row.total_ms, row.plain_ms, row.float_ms, row.library_ms)
        ratios = (row.gain, row.float_plain_ms / row.plain_ms, row.library_ms and row.library_ms / row.product_ms)
        cells = [*(_cell(time, 4) for time in times), *(_cell(ratio, 2) for ratio in ratios)]
        lines.append(f"{row.scheme:38s} {row.path:11s} {row.tokens:6d} " + " ".join(cells))
    lines += [f"{text}: {reason}" for text, reason in report.refused.items()]
    return "\n".join(lines)


def _cell(number: float | None, digits: int) -> str:
    return f"{'' if number is None else f'{number:.{digits}f}':>9s}"


def bar(report: SpeedReport) -> list[dict[str, Any]]:
    """The work that this project set itself a bar for: what it needs, and what was reached at each number of tokens."""

    def gains(scheme: str, least: int, most: int, product_only: bool = False) -> list[float]:
        rows = [row for row in report.rows if row.scheme == scheme and least <= row.tokens <= most]
        return [round(_gain(row, product_only), 2) for row in rows]

    works = [
        ("fp8 per-tensor product, codes ready, 2048-8192 tokens", 1.75, gains(TENSOR_FP8, 2048, 8192, True)),
        ("fp8 dynamic per-token, end to end, 2048-8192 tokens", 1.5, gains("FP8_DYNAMIC", 2048, 8192)),
        ("int8 dynamic per-token, end to end, 2048-8192 tokens", 1.2, gains("W8A8", 2048, 8192)),
        ("int8 dynamic per-token, end to end, 1-32 tokens", 1.5, gains("W8A8", 1, 32)),
        ("fp8 dynamic per-token, end to end, 1-32 tokens", 1.5, gains("FP8_DYNAMIC", 1, 32)),
        ("int4 weights per group of 128, 1-16 tokens", 2.8, gains("W4A16", 1, 16)),
    ]
    return [{"work": work, "needs": needs, "least": min(got), "gains": got} for work, needs, got in works if got]


def _gain(row: SpeedRow, product_only: bool) -> float:
    return row.float_ms / (row.product_ms if product_only else row.total_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    out = args.out or RESULTS / ("matmul.json" if args.device == "cuda" else "matmul_cpu.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    run(args.device, lambda report: write(out, report))


if __name__ == "__main__":
    main()
