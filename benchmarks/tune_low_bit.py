"""Which tile is quickest for few 16-bit tokens times int4 codes on this GPU: the search behind
`few_tokens_matmul.tile_for`.

    python -m benchmarks.tune_low_bit             prints the best of each, writes results/tune_low_bit.json

Group 128, Llama-3-8B's layers: tiles of 16 rows a program, warps that share K, blocks of columns at a time, registers.
`packed` is the kernel for more tokens. Times are medians in microseconds over CUDA graph replays, each call on another
copy of the weight, so that none is found in the L2 cache. What differs from the other kernel by more than rounding is
an error. The tiles are compiled first, by several processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore.matmul.kernels.few_tokens_matmul import FewTile, multiply_few, tile_for
from quantcore.matmul.kernels.low_bit_matmul import multiply_packed
from quantcore.matmul.kernels.low_bit_weight import LowBitWeight, pack_weight
from quantcore.numbers.qtensor import quantize
from quantcore.scheme.scheme import Scheme
from quantcore.studies.clock import Clock

WORKS = dict.fromkeys([(14336, 4096), (4096, 4096), (4096, 14336), (1024, 4096)], (1, 8, 16))
TILES = [FewTile(1, warps, blocks, most) for warps, blocks, most in itertools.product((4, 8), (1, 2), (None, 64, 72))]
TILES += [FewTile(1, 8, 2, 80), FewTile(1, 2, 2), FewTile(2, 4, 1), FewTile(2, 8, 1)]
PROCESSES = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "tune_low_bit.json")
    args = parser.parse_args()
    found: dict[str, Any] = {"machine": describe(), "rows": []}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(compile_them, [TILES[i::PROCESSES] for i in range(PROCESSES)])
    for shape, counts in WORKS.items():
        for tokens in counts:
            row = {"shape": shape, "tokens": tokens} | search(shape, tokens)
            found["rows"].append(row)
            print(json.dumps({key: value for key, value in row.items() if key != "all"}), flush=True)
            write(args.out, found)


def compile_them(tiles: list[FewTile]) -> None:
    weight = packed((128, 4096))  # wide enough that the blocks fill the steps, as they do in what is timed
    for tile, tokens in itertools.product(tiles, (1, 16)):
        multiply_few(torch.randn(tokens, 4096, device="cuda", dtype=torch.bfloat16), weight, None, tile)


def packed(shape: tuple[int, int]) -> LowBitWeight:
    spec = Scheme.parse("W4A16").weights
    assert spec is not None
    return pack_weight(quantize(torch.randn(shape, device="cuda", dtype=torch.bfloat16), spec))


def search(shape: tuple[int, int], tokens: int) -> dict[str, Any]:
    clock = Clock(torch.device("cuda"))
    dense = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(tokens, shape[1], device="cuda", dtype=torch.bfloat16)
    several = [dense, *(dense.clone() for _ in range(clock.copies(dense.nbytes) - 1))]
    bf16 = microseconds(clock, [lambda w=w: torch.nn.functional.linear(x, w) for w in several])
    del several
    one = packed(shape)
    more = clock.copies(one.words.nbytes) - 1
    weights = [one, *(one._replace(words=one.words.clone(), scale=one.scale.clone()) for _ in range(more))]
    torch.cuda.synchronize()  # products read weights before the kernel before them has ended
    other = microseconds(clock, [lambda w=w: multiply_packed(x, w, None) for w in weights])
    right = multiply_packed(x, one, None).float()
    times = []
    for tile in TILES:
        y = multiply_few(x, one, None, tile).float()
        if not torch.allclose(y, right, rtol=2**-6, atol=2**-6 * float(right.abs().max())):
            raise AssertionError(f"{tile} gives another product for {tokens} tokens, {shape}")
        times.append((microseconds(clock, [lambda w=w: multiply_few(x, w, None, tile) for w in weights]), tile))  # noqa: B023
    times.sort(key=lambda pair: pair[0])  # a tile may hold None
    now = {tile: time for time, tile in times}[tile_for(tokens, shape[0])]
    return {
        "bf16_us": bf16,
        "packed_us": other,
        "now_us": now,
        "now_gain": round(bf16 / now, 2),
        "best_gain": round(bf16 / times[0][0], 2),
        "best": times[:5],
        "all": times,
    }


def microseconds(clock: Clock, calls: list[Any]) -> float:
    return round(1000 * clock.ms(calls), 2)


if __name__ == "__main__":
    main()
