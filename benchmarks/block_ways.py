"""What compiling or capturing a block would give: one of Llama-3-8B's shapes, run as it is, compiled, and as a graph.

    python -m benchmarks.block_ways                     8 windows of 2,048 tokens a call, on a GPU
    python -m benchmarks.block_ways --tiny --device cpu

Milliseconds of a call are medians over ROUNDS, the ways in turn; `first_s` is what the first call takes (of the
compiled one: to compile it). `products_ms`: the block's products and its attention's at the rate of this machine's own
bf16 product, below which no way can come. Writes `benchmarks/results/block_ways.json`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import rates
from benchmarks.llama_files import LLAMA_3_8B, TINY, Shape, quantized_numbers
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write

ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small block and 2 x 64 tokens")
    parser.add_argument("--out", type=Path, default=RESULTS / "block_ways.json")
    chosen = parser.parse_args()
    shape, windows, length = (TINY, 2, 64) if chosen.tiny else (LLAMA_3_8B, chosen.windows, chosen.length)
    found: dict[str, Any] = {
        "machine": describe(),
        "shape": shape._replace(blocks=1)._asdict(),
        "tokens": [windows, length],
        "ways": measured(shape, windows, length, chosen.device),
    }
    with tempfile.TemporaryDirectory() as folder:
        rate = rates(chosen.device, Path(folder))["product_tflops"] * 1e12
    tokens = windows * length
    flops = 2 * quantized_numbers(shape) * tokens + 2 * tokens * length * shape.hidden
    found["products_ms"] = 1e3 * flops / rate
    write(chosen.out, found)
    for name, way in found["ways"].items():
        print(f"{name:12} {way['ms']:8.2f} ms   first call {way['first_s']:.2f} s")
    print(f"the products alone {found['products_ms']:.2f} ms")


def measured(shape: Shape, windows: int, length: int, device: str) -> dict[str, dict[str, float]]:
    block, call = block_and_call(shape, windows, length, device)
    ways: dict[str, Callable[[], Any]] = {"as it is": lambda: block(**call)}
    compiled: Callable[..., Any] = torch.compile(block)
    ways["compiled"] = lambda: compiled(**call)
    with torch.inference_mode():
        found = {name: {"first_s": seconds(way, device)} for name, way in ways.items()}
        if torch.device(device).type == "cuda":
            started = time.perf_counter()
            ways["graph"] = captured(lambda: block(**call))
            found["graph"] = {"first_s": time.perf_counter() - started}
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                took[name].append(seconds(way, device))
    return {name: known | {"ms": 1e3 * statistics.median(took[name])} for name, known in found.items()}


def block_and_call(shape: Shape, windows: int, length: int, device: str) -> tuple[Any, dict[str, Tensor | Any]]:
    """A block of random weights, and the arguments with which the model calls it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=1,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=length,
        dtype="bfloat16",
    )  # fmt: skip
    with torch.device(device):
        model = LlamaForCausalLM(config).bfloat16().eval()
    caught: dict[str, Any] = {}

    def keep(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.update(kwargs, hidden_states=args[0])

    block = model.model.layers[0]
    with torch.inference_mode():
        hook = block.register_forward_pre_hook(keep, with_kwargs=True)
        model(torch.zeros(windows, length, dtype=torch.long, device=device), use_cache=False)
        hook.remove()
    return block, caught


def captured(way: Callable[[], Any]) -> Callable[[], None]:
    """The same launches as one CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        way()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way()
    return graph.replay


def seconds(way: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    way()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
