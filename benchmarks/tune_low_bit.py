"""Which tile is quickest for 16-bit tokens times int4 codes on this GPU: the search behind `low_bit_matmul.tile_for`.

    python -m benchmarks.tune_low_bit             prints the best of each, writes results/tune_low_bit.json

Group 128, Llama-3-8B's layers, 1, 16 and 32 tokens: planes of 32 and 64 columns, rows a tile, warps, turns under way,
pieces of K. Times are medians over CUDA graph replays, each call on another copy of the weight, so that none is found
in the L2 cache. `now` is what the library would take; what differs from its result by more than rounding is an error.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.machine import describe
from quantcore.kernels.codes_matmul import Tile
from quantcore.kernels.low_bit_matmul import (
    BLOCK,
    NARROW,
    WIDE,
    LowBitWeight,
    multiply_packed,
    pack_weight,
    splits_for,
    tile_for,
)
from quantcore.qtensor import quantize
from quantcore.scheme import Scheme
from quantcore.studies.speed import Clock

RESULTS = Path(__file__).parent / "results"
SHAPES = {"gate": (14336, 4096), "q, o": (4096, 4096), "down": (4096, 14336)}
TOKENS = (1, 16, 32)
ROWS_AND_WARPS = ((32, 2), (64, 4), (128, 4), (128, 8), (256, 8))
STAGES = (2, 3, 4)
PIECES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "tune_low_bit.json")
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    args = parser.parse_args()
    found: dict[str, Any] = {"machine": describe(), "rows": []}
    for name, shape in SHAPES.items():
        for tokens in args.tokens:
            row = {"layer": name, "shape": shape, "tokens": tokens} | search(shape, tokens)
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n")


def search(shape: tuple[int, int], tokens: int) -> dict[str, Any]:
    spec = Scheme.parse("W4A16").weights
    assert spec is not None
    clock = Clock(torch.device("cuda"))
    weight = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(tokens, shape[1], device="cuda", dtype=torch.bfloat16)
    dense = [weight, *(weight.clone() for _ in range(clock.copies(weight.nbytes) - 1))]
    bf16 = clock.ms([lambda w=w: torch.nn.functional.linear(x, w) for w in dense])
    del dense
    quantized = quantize(weight, spec)
    packed = {plane: copies(pack_weight(quantized, plane), clock) for plane in (NARROW, WIDE)}
    chosen = packed[pack_weight(quantized).block // 4][0]
    right = multiply_packed(x, chosen, None).float()
    wanted = [(chosen.block // 4, tile_for(tokens, chosen), splits_for(tokens, *shape))]
    for plane, (rows, warps), stages, pieces in itertools.product((NARROW, WIDE), ROWS_AND_WARPS, STAGES, PIECES):
        if 4 * plane * pieces <= shape[1] and 2 * shape[0] * pieces >= 132 * rows:
            wanted.append((plane, Tile(rows, 32 if tokens > 16 else 16, BLOCK, warps, stages), pieces))
    times = [
        (timed(x, packed[plane], tile, pieces, right, clock), told(plane, tile, pieces))
        for plane, tile, pieces in wanted
    ]
    best = sorted(times[1:])[:5]
    return {
        "bf16_ms": round(bf16, 5),
        "now": times[0],
        "now_gain": round(bf16 / times[0][0], 2),
        "best_gain": round(bf16 / best[0][0], 2),
        "best": best,
        "tried": len(times) - 1,
        "do_not_fit": sum(ms == float("inf") for ms, _ in times),
    }


def copies(weight: LowBitWeight, clock: Clock) -> list[LowBitWeight]:
    more = clock.copies(weight.words.nbytes) - 1
    return [weight, *(weight._replace(words=weight.words.clone(), scale=weight.scale.clone()) for _ in range(more))]


def timed(x: Tensor, weights: list[LowBitWeight], tile: Tile, pieces: int, right: Tensor, clock: Clock) -> float:
    """Milliseconds; inf for a tile that asks for more shared memory than there is."""
    try:
        y = multiply_packed(x, weights[0], None, tile, pieces).float()
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    if not torch.allclose(y, right, rtol=2**-6, atol=2**-6 * float(right.abs().max())):
        raise AssertionError(f"{tile} in {pieces} pieces gives another product")
    return round(clock.ms([lambda w=w: multiply_packed(x, w, None, tile, pieces) for w in weights]), 5)


def told(plane: int, tile: Tile, pieces: int) -> str:
    return f"plane {plane}, {tile.n} x {tile.t}, {tile.warps} warps, {tile.stages} stages, {pieces} pieces"


if __name__ == "__main__":
    main()
