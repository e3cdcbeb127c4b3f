"""Which tile sweeps GPTQ's columns quickest on this GPU: the search behind `gptq_sweep.tile_for`.

    python -m benchmarks.tune_gptq_sweep          prints the tiles by time, writes results/tune_gptq_sweep.json

int4, groups of 128, K 4096, columns as they come and sorted (then each column has its own scale); 4096, 14336 and 65536
rows. Times are medians in ms of the whole sweep, its matrix products between the blocks included, factorization and
scales not; with few rows launching the kernels takes most of it, which in `gptq_quantize` the factorization hides. The
tiles are compiled first, by several processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from pathlib import Path
from typing import Any

from benchmarks.gptq import gram_for, int4, median, problem
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore.methods.gptq import GptqProblem, factorize
from quantcore.methods.kernels import gptq_sweep
from quantcore.methods.kernels.gptq_sweep import Tile
from quantcore.methods.options import Actorder, Gptq
from quantcore.methods.sweep import Rows, sweep
from quantcore.methods.sweep_state import Order

WIDTH = 4096
ROWS = (4096, 14336, 65536)
TILES = [Tile(*numbers) for numbers in (
    (16, 64, 1, 1), (16, 64, 1, 3), (16, 128, 1, 1), (32, 64, 1, 1), (32, 64, 1, 3), (32, 128, 1, 1), (32, 64, 2, 1),
    (64, 64, 2, 1), (64, 128, 2, 1), (128, 64, 4, 1), (128, 64, 4, 2),
)]  # fmt: skip
PROCESSES = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "tune_gptq_sweep.json")
    args = parser.parse_args()
    found: dict[str, Any] = {"machine": describe(), "rows": []}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(compile_them, [TILES[i::PROCESSES] for i in range(PROCESSES)])
    orders: tuple[Actorder, ...] = (None, "weight")
    for rows, order in itertools.product(ROWS, orders):
        work = Work(rows, order)
        now = work.ms()
        times = sorted((work.ms(tile), tuple(tile)) for tile in TILES)
        row = {"rows": rows, "order": order, "now": now, "best": times[:5], "all": times}
        found["rows"].append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "all"}), flush=True)
        write(args.out, found)


def compile_them(tiles: list[Tile]) -> None:
    works = [Work(256, order, 768) for order in (None, "weight")]
    for tile, work in itertools.product(tiles, works):
        work.run(tile)


class Work:
    """A sweep of so many rows: of one weight, or of weights of 4096 rows side by side where they make up the number."""

    def __init__(self, rows: int, order: Actorder, width: int = WIDTH) -> None:
        gram = gram_for(width, "cuda")
        each = 4096 if rows % 4096 == 0 else rows
        given = GptqProblem(problem((each, width), "cuda"), int4(128), Gptq(order))
        visits = Order.of(gram, order is not None)
        self.pull, self.diagonal, _ = factorize(gram, visits, 0.01)
        self.parts = [Rows(given, visits, {}, gram) for _ in range(rows // each)]

    def run(self, tile: Tile | None = None) -> None:
        was = gptq_sweep.tile_for
        if tile:
            gptq_sweep.tile_for = lambda rows, halves: tile
        try:
            sweep(self.parts, self.pull, self.diagonal, None)
        finally:
            gptq_sweep.tile_for = was

    def ms(self, tile: Tile | None = None) -> float:
        return median(lambda: self.run(tile), "cuda", 3)


if __name__ == "__main__":
    main()
