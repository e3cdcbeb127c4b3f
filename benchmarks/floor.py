"""The least time that quantizing by GPTQ can take on this machine, from rates that are measured on it.

    forwards   two passes through every block: for its Hessians, and behind its quantized weights for the next one's
    Hessians   X^T X of the four inputs of a block's Linears, as full products
    solve      our own GPTQ of one block, the block count times
    read, write   bytes over the disk's rates; both can be done while the device computes, so they are not added

Operations are counted as two a multiply-add; attention as the half that the causal mask leaves.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama_files import Shape, quantized_numbers

PRODUCT = {"cuda": 8192, "cpu": 1024}
FILE_BYTES = {"cuda": 2**31, "cpu": 2**26}


def rates(device: str, folder: Path) -> dict[str, float]:
    """bf16 products (float32 on a CPU) in TFLOP/s; reading and writing of files in GB/s, as a program sees them: a file
    just written is read from memory."""
    kind = torch.device(device).type
    size = PRODUCT[kind]
    a, b = (torch.randn(size, size, device=device, dtype=_dtype(kind)) for _ in range(2))
    seconds = median_s(lambda: a @ b, device, 10)
    data = torch.randint(0, 255, (FILE_BYTES[kind],), dtype=torch.uint8).numpy().tobytes()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        file.write(data)
        file.flush()
        write_s, started = time.perf_counter() - started, time.perf_counter()
        Path(file.name).read_bytes()
        read_s = time.perf_counter() - started
    gigabytes = len(data) / 1e9
    return {
        "product_tflops": 2 * size**3 / seconds / 1e12,
        "write_gb_s": gigabytes / write_s,
        "read_gb_s": gigabytes / read_s,
    }


def floor(shape: Shape, windows: int, length: int, measured: dict[str, float], block_s: float) -> dict[str, float]:
    """Seconds: forwards, Hessians, solve (`block_s` a block), and their sum; read and write beside them."""
    tokens = windows * length
    passes = 2 * (2 * quantized_numbers(shape) * tokens + 2 * tokens * length * shape.hidden)
    grams = 2 * tokens * (3 * shape.hidden**2 + shape.ffn**2)
    rate = measured["product_tflops"] * 1e12
    forward_s, hessian_s = (shape.blocks * flops / rate for flops in (passes, grams))
    embeddings = 2 * shape.hidden * shape.vocabulary
    numbers = shape.blocks * quantized_numbers(shape)
    return {
        "forwards_s": forward_s,
        "hessians_s": hessian_s,
        "solve_s": shape.blocks * block_s,
        "read_s": 2 * (numbers + embeddings) / measured["read_gb_s"] / 1e9,
        "write_s": (numbers * (0.5 + 2 / 128) + 2 * embeddings) / measured["write_gb_s"] / 1e9,
        "floor_s": forward_s + hessian_s + shape.blocks * block_s,
    }


def solve_block_s(shape: Shape, device: str) -> float:
    """GPTQ of one block's Linears, int4 in groups of 128, inputs shared as in a Llama."""
    from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
    from quantcore.scheme.scheme import Scheme

    spec = Scheme.parse("w:int4/group128").weights
    assert spec is not None
    narrow = shape.hidden // shape.heads * shape.kv_heads
    sets = [((shape.hidden, narrow, narrow), shape.hidden), ((shape.hidden,), shape.hidden)]
    sets += [((shape.ffn, shape.ffn), shape.hidden), ((shape.hidden,), shape.ffn)]
    work = []
    for outs, width in sets:
        x = torch.randn(2 * width, width, device=device)
        weights = [torch.randn(out, width, device=device) for out in outs]
        work.append(([GptqProblem(weight, spec) for weight in weights], x.T @ x))
    return median_s(lambda: [gptq_quantize_many(*one) for one in work], device, 3)


def median_s(call: Callable[[], Any], device: str, times: int) -> float:
    """Seconds of one call, the device's work included; the first two are not counted."""
    taken = []
    for turn in range(times + 2):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        if turn > 1:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _dtype(kind: str) -> torch.dtype:
    return torch.bfloat16 if kind == "cuda" else torch.float32
