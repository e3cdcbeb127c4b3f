"""How fast GPTQ is, beside the tools that people use for it, on the same tensors in one run.

    python -m benchmarks.gptq                     prints the table, writes results/gptq.json as it goes
    python -m benchmarks.gptq --out FILE.json     elsewhere

Without a GPU the shapes are the reference model's, its whole quantization comes last (int4, group 128, 128 windows of
512 tokens, calibration included), and the file is results/gptq_cpu.json.

int4, groups of 128, symmetric, damping 0.01, columns as they come. Times are medians in ms, on a GPU between CUDA
events. Ours includes checking the Hessian, choosing the scales, ordering and packing the result into a QTensor; theirs
is given the scales and returns dequantized weights. `loss` is sum of e H e^T, ours over theirs.

Peers, where their packages can be imported: llm-compressor's `quantize_weight` (its Triton path on a GPU). The original
algorithm is the authors' loop over columns as our `gptq_plain` writes it, timed at the smallest shape only.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore import dequantize, load_model, quantize_model
from quantcore.methods.gptq import GptqProblem, factorize, gptq_loss, gptq_plain, gptq_quantize, gptq_quantize_many
from quantcore.methods.options import Actorder, Gptq
from quantcore.methods.sweep_state import Order
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.gram import gram_of
from quantcore.scheme.scheme import Scheme
from quantcore.text.windows import bundled_text, token_windows

SHAPES = {"cuda": [(4096, 4096), (14336, 4096), (4096, 14336)], "cpu": [(384, 384), (1024, 384), (384, 1024)]}
BLOCKS = {
    "cuda": (4096, {"q, k, v": (4096, 1024, 1024), "o": (4096,), "gate, up": (14336, 14336)}, (4096, 14336)),
    "cpu": (384, {"q, k, v": (384, 128, 128), "o": (384,), "gate, up": (1024, 1024)}, (384, 1024)),
}
HESSIAN_TOKENS = {"cuda": (32768, 4096), "cpu": (8192, 384)}
WINDOWS = 128
BITS, GROUPS, DAMPS = (2, 3, 4, 8), (32, 64, 128, None), (0.01, 0.05)
ORDERS: tuple[Actorder, ...] = (None, "weight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = options.out or RESULTS / ("gptq.json" if device == "cuda" else "gptq_cpu.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    found: dict[str, Any] = {"machine": describe(), "peer": peer_name(), "rows": []}
    print(found["machine"], found["peer"], sep="\n", flush=True)
    works: list[Callable[[], dict[str, Any]]] = [
        functools.partial(one_layer, shape, device) for shape in SHAPES[device]
    ]
    works += [functools.partial(block, device), functools.partial(hessian, device)]
    works.append(functools.partial(configurations, SHAPES[device][0], device))
    if device == "cpu":
        works.append(whole_model)
    for work in works:
        row = work()
        found["rows"].append(row)
        print(json.dumps(row), flush=True)
        write(out, found)


def one_layer(shape: tuple[int, int], device: str) -> dict[str, Any]:
    weight, gram, spec = problem(shape, device), gram_for(shape[1], device), int4(128)
    as_they_come = Order.of(gram, False)
    row: dict[str, Any] = {
        "work": f"{shape[0]} x {shape[1]}",
        "ours": median(lambda: gptq_quantize(weight, gram, spec), device),
    }
    row["ours, actorder weight"] = median(lambda: gptq_quantize(weight, gram, spec, Gptq("weight")), device)
    row["of it the factorization"] = median(lambda: factorize(gram, as_they_come, 0.01), device)
    row["torch.linalg.cholesky_ex"] = median(lambda: torch.linalg.cholesky_ex(gram), device)
    for order in (None, "weight"):
        mine = gptq_quantize(weight, gram, spec, Gptq(order))
        if theirs := peer(weight, gram, mine.scale, order):
            key = "" if order is None else ", actorder weight"
            row[f"llm-compressor{key}"] = median(theirs, device)
            row[f"speed-up{key}"] = row[f"llm-compressor{key}"] / row[f"ours{key}"]
            row[f"loss{key}"] = gptq_loss(weight, dequantize(mine), gram) / gptq_loss(weight, theirs(), gram)
    if shape == SHAPES[device][0]:
        row["original loop, float64"] = median(lambda: gptq_plain(weight, gram, spec), device, 1)
    return row


def block(device: str) -> dict[str, Any]:
    """Every Linear of a decoder block: those that read the same input share one factorization."""
    width, together, down = BLOCKS[device]
    sets = [([problem((out, width), device) for out in outs], gram_for(width, device)) for outs in together.values()]
    sets.append(([problem(down, device)], gram_for(down[1], device)))
    spec = int4(128)

    def ours() -> None:
        for weights, gram in sets:
            gptq_quantize_many([GptqProblem(weight, spec) for weight in weights], gram)

    row: dict[str, Any] = {"work": "a Llama block: q, k, v, o, gate, up, down", "ours": median(ours, device, 5)}
    scales = [[gptq_quantize(weight, gram, spec).scale for weight in weights] for weights, gram in sets]
    runs = [
        peer(weight, gram, scale, None)
        for (weights, gram), some in zip(sets, scales, strict=True)
        for weight, scale in zip(weights, some, strict=True)
    ]
    if all(runs):
        row["llm-compressor"] = median(lambda: [run() for run in runs if run], device, 3)
        row["speed-up"] = row["llm-compressor"] / row["ours"]
    return row


def hessian(device: str) -> dict[str, Any]:
    tokens, width = HESSIAN_TOKENS[device]
    x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
    exact = x.double().T @ x.double()
    row: dict[str, Any] = {
        "work": f"Hessian of {tokens} bf16 tokens, K = {width}",
        "ours": median(lambda: gram_of(x), device),
    }
    row["float32"] = median(lambda: x.float().T @ x.float(), device)
    row["speed-up"] = row["float32"] / row["ours"]
    row["relative error"] = float((gram_of(x).double() - exact).norm() / exact.norm())
    return row


def configurations(shape: tuple[int, int], device: str) -> dict[str, Any]:
    """64 configurations of one layer in one call: bits x group size x order x damping."""
    weight, gram = problem(shape, device), gram_for(shape[1], device)
    specs = [Scheme.parse(f"w:int{bits}/{f'group{g}' if g else 'channel'}").weights for bits in BITS for g in GROUPS]
    ways = [Gptq(order, damp) for order in ORDERS for damp in DAMPS]
    problems = [GptqProblem(weight, spec, way) for spec in specs if spec for way in ways]
    row: dict[str, Any] = {"work": f"{len(problems)} configurations of {shape[0]} x {shape[1]}"}
    row["ours"] = median(lambda: gptq_quantize_many(problems, gram), device, 3)
    row["ours, one by one"] = median(
        lambda: [gptq_quantize(p.weight, gram, p.spec, p.options) for p in problems], device, 1
    )
    mine = gptq_quantize(weight, gram, int4(128))
    if theirs := peer(weight, gram, mine.scale, None):
        row["llm-compressor, 64 times one"] = len(problems) * median(theirs, device)
        row["speed-up"] = row["llm-compressor, 64 times one"] / row["ours"]
    return row


def whole_model() -> dict[str, Any]:
    """The reference model, block by block; the calibration text again and again, until there are as many tokens."""
    lm = load_model("reference")
    text = token_windows(lm.tokenizer, bundled_text("calibration"), 512)
    windows = text.repeat(-(-WINDOWS // len(text)), 1)[:WINDOWS]
    begun = time.perf_counter()
    _, layers = quantize_model(lm.model, "w:int4/group128,gptq", calibration=windows)
    return {
        "work": f"the reference model, {windows.shape[0]} x {windows.shape[1]} tokens",
        "ours, s": round(time.perf_counter() - begun, 1),
        "of it GPTQ of all layers, s": round(sum(layer.seconds for layer in layers), 1),
        "threads": torch.get_num_threads(),
    }


def peer(weight: Tensor, gram: Tensor, scale: Tensor, order: str | None) -> Callable[[], Tensor] | None:
    """llm-compressor's GPTQ on the same tensors and scales, which it works on in place: each call gets copies."""
    module = _llm_compressor()
    if module is None:
        return None
    from compressed_tensors.quantization import QuantizationArgs

    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=128, symmetric=True, actorder=order)
    zero = torch.zeros_like(scale, dtype=torch.int8)

    def run() -> Tensor:
        found: Tensor = module.quantize_weight(
            weight.float().clone()[None], gram.clone()[None], scale[None], zero[None], None, args
        )[0][0]
        return found

    return run


@functools.cache
def _llm_compressor() -> Any:
    """Its module of the sweep alone: the package's own __init__ wants data sets and servers that this does not need."""
    found = importlib.util.find_spec("llmcompressor")
    if found is None or importlib.util.find_spec("compressed_tensors") is None:
        return None
    root = Path(found.submodule_search_locations[0])  # type: ignore[index]
    for name in ("llmcompressor", "llmcompressor.modifiers", "llmcompressor.modifiers.gptq"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
    return importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize")


def peer_name() -> str:
    if _llm_compressor() is None:
        return "llm-compressor: not installed, so it is not measured"
    import importlib.metadata

    return f"llm-compressor {importlib.metadata.version('llmcompressor')}"


def int4(group: int) -> QuantSpec:
    spec = Scheme.parse(f"w:int4/group{group}").weights
    assert spec is not None
    return spec


def problem(shape: tuple[int, int], device: str) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32) * 0.02


def gram_for(width: int, device: str) -> Tensor:
    """The Hessian of 2 K correlated tokens, with channels of very different size and one that shouts."""
    x = torch.randn(2 * width, width, device=device)
    x = x + 0.5 * x.roll(1, 1) + 0.25 * x.roll(7, 1)
    x *= torch.exp(0.5 * torch.randn(width, device=device))
    x[:, width // 3] *= 30
    return x.T @ x


def median(work: Callable[[], Any], device: str, times: int = 10) -> float:
    work()
    taken: list[float] = []
    for _ in range(times):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
            torch.cuda.synchronize()
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(end))
        else:
            begun = time.perf_counter()
            work()
            taken.append(1000 * (time.perf_counter() - begun))
    return round(statistics.median(taken), 3)


if __name__ == "__main__":
    main()
