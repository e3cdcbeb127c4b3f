"""How long a look along a long context takes: six coded caches beside a float one, on one window.

    python -m benchmarks.context_lens                        Llama-3.2-1B's shapes, 32,768 tokens, on a GPU
    python -m benchmarks.context_lens --tiny --device cpu    a model of two small blocks, to see that all of it works

The model is made on the spot, of random weights, and so is the text: only the time is looked at. Ranges are calibrated
first, and counted. Two rounds, of which the second counts. Writes `benchmarks/results/context_lens.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama_files import TINY, Shape, write_random_llama
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore.model.held import held
from quantcore.model.loading import load_model
from quantcore.pipeline.cache_ranges import calibrate_cache
from quantcore.scheme.scheme import Scheme
from quantcore.studies.context_lens import context_lens

LLAMA_1B = Shape(2048, 8192, 32, 8, 16, 128256, 131072)
CACHES = (
    "kv:fp8_e4m3/tensor",
    "kv:fp8_e4m3/head",
    "kv:int8/token",
    "kv:int4/token",
    "kv:int4/group16",
    "k:int4/group16",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "context_lens.json")
    chosen = parser.parse_args()
    shape, length = (TINY, 128) if chosen.tiny else (LLAMA_1B, chosen.tokens)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_random_llama(model, shape, device=chosen.device)
        rounds = measured(str(model), chosen.device, length, shape.vocabulary)
    found = {"machine": describe(), "shape": shape._asdict(), "tokens": length, "caches": CACHES, "rounds": rounds}
    write(chosen.out, found)
    print(f"{len(CACHES)} caches along {length:,} tokens: {rounds[-1]['seconds']:.1f} s")


def measured(model: str, device: str, length: int, vocabulary: int) -> list[dict[str, Any]]:
    loaded = load_model(model, device)
    tokens = torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    rounds = []
    for _ in range(2):
        started = time.perf_counter()
        asked = {text: Scheme.parse(text).kv for text in CACHES}
        frozen = {
            text: (kv, calibrate_cache(held(loaded), kv, tokens[:, :2048]))
            for text, kv in asked.items()
            if kv is not None
        }
        found = context_lens(loaded.model, frozen, tokens)
        kl = {text: float(each.double().mean()) for text, each in found.kl.items()}
        rounds.append({"seconds": time.perf_counter() - started, "kl": kl, "held": found.held})
    return rounds


if __name__ == "__main__":
    main()
