"""How long a whole decode step takes: 8 blocks of Llama-3-8B's shapes, one sequence, replayed from one CUDA graph.

    python -m benchmarks.decode_steps                       every kind that the advisor's speed model is fitted to
    python -m benchmarks.decode_steps --schemes W4A16       one scheme
    python -m benchmarks.decode_steps --sequences 64        of 64 sequences at once
    python -m benchmarks.decode_steps --tiny --device cpu   two small blocks, step by step, to see that all of it works

The model is made on the spot, of random weights, with a vocabulary so small that its head takes no time. Milliseconds
a step: (seconds of LONG tokens - seconds of SHORT) / (LONG - SHORT), the median of ROUNDS. A scheme at a time is
written to `benchmarks/results/decode_steps.json`, which `benchmarks.fit_pace` holds its predictions to.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.llama_files import LLAMA_3_8B, TINY, write_random_llama
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, put_row
from quantcore import load_model, quantize_model
from quantcore.model.decode import GreedyDecoder

SCHEMES = ("float", "W8A8", "w:int8/channel,a:int8/tensor/static", "FP8", "FP8_DYNAMIC", "FP8_BLOCK", "W4A16",
           "W4A16_ASYM", "W8A16", "w:int4/channel,a:int8/token/dynamic",
           "w:int4/group128,a:fp8_e4m3/token/dynamic")  # fmt: skip
SHAPE = LLAMA_3_8B._replace(blocks=8, vocabulary=256)
PROMPT, SHORT, LONG, ROUNDS = 64, 40, 240, 3
WAYS = {"plain_": False, "": True}  # by transformers' own blocks, and with what stands between products fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "decode_steps.json")
    chosen = parser.parse_args()
    shape = TINY._replace(context=512) if chosen.tiny else SHAPE
    many = "one sequence" if chosen.sequences == 1 else f"{chosen.sequences} sequences"
    what = f"{shape.blocks} blocks, hidden {shape.hidden}, ffn {shape.ffn}, {many}"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model"
        write_random_llama(made, shape, device=chosen.device)
        loaded = load_model(str(made), chosen.device)
        prompt = torch.randint(
            0, shape.vocabulary, (chosen.sequences, PROMPT), generator=torch.Generator().manual_seed(0)
        )
        for scheme in chosen.schemes:
            model = loaded.model if scheme == "float" else quantize_model(loaded.model, scheme, prompt)[0]
            row: dict[str, Any] = {f"{name}ms": step_ms(model, prompt, fuse) for name, fuse in WAYS.items()}
            print(f"{scheme}: {row['ms']:.3f} ms a step, by transformers {row['plain_ms']:.3f}", flush=True)
            row["machine"] = describe()
            put_row(chosen.out, what, scheme, row)
            del model


def step_ms(model: nn.Module, prompt: Tensor, fuse: bool) -> float:
    def seconds(count: int) -> float:
        decoder = GreedyDecoder(model, PROMPT + LONG, sequences=len(prompt), fuse=fuse)
        started = time.perf_counter()
        decoder.continue_(prompt, count).cpu()
        return time.perf_counter() - started

    seconds(SHORT)  # kernels are compiled
    return median(1e3 * (seconds(LONG) - seconds(SHORT)) / (LONG - SHORT) for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
