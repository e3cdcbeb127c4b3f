"""Fit the advisor's speed model to the products that `benchmarks.matmul` recorded; writes quantcore/assets/pace.json.

    python -m benchmarks.fit_pace

Robust least squares on log times, a kind of scheme at a time, drawn a little towards START so that a constant which
the data do not tell stays near it; no product moves its bytes faster than the datasheet's bandwidth. Held out in turn:
each shape (where a kind has several), each number of tokens, each GPU; of the whole decode steps each scheme.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from benchmarks.rows import RESULTS, write
from quantcore.advice.pace import FILE, HeldOut, Pace, bounds_ms
from quantcore.studies.gpus import GPUS, Machine, gpu_named
from quantcore.studies.speed_curves import read_run

RUNS = ("matmul.json", "matmul_h200.json")
FEW = 16  # tokens
STATIC = "w:int8/channel,a:int8/tensor/static"
# More tokens are multiplied by other kernels since.
OLDER_MANY = {"matmul.json": ("W8A8", STATIC, "FP8_BLOCK", "W4A16", "W4A16_ASYM")}
KINDS = ("float", "W8A8", STATIC, "FP8", "FP8_DYNAMIC", "FP8_BLOCK", "W4A16",
         "W4A16_ASYM", "W8A16")  # fmt: skip
START = np.array([-5.8, 0.3, 0.15, 0.4, 0.7, 1.0])
LEAST = np.array([-np.inf, -np.inf, 0.0, -np.inf, -np.inf, -np.inf])  # memory: at least once the bytes
DRAWN = 0.05
BLOCK = ((4096, 4096), (4096, 4096), (1024, 4096), (1024, 4096), (14336, 4096), (14336, 4096), (4096, 14336))
BLOCKS = 8
TOKENS = [1, 16, 64, 256, 1024, 4096]
BESIDE = {"W4A16": "W4A16", "W8A8": "W8A8", "FP8_DYNAMIC": "FP8_DYNAMIC",
          "int4 channel x int8": "w:int4/channel,a:int8/token/dynamic",
          "int4 group128 x fp8": "w:int4/group128,a:fp8_e4m3/token/dynamic"}  # fmt: skip
DECODED = json.loads((RESULTS / "decode_steps.json").read_text(encoding="utf-8"))
WHAT, ROWS = next(iter(DECODED.items()))  # `benchmarks.decode_steps`, one H200
MEASURED = json.loads((RESULTS / "matmul_h200.json").read_text(encoding="utf-8"))["machine"]["date"]
STEPS = {kind: row["ms"] for kind, row in ROWS.items() if kind in KINDS and row["machine"]["date"] == MEASURED}


class Row(NamedTuple):
    kind: str
    gpu: str
    shape: tuple[int, int]
    tokens: int
    ms: float
    bounds: tuple[float, float, float, float]  # what `Pace.ms` takes


def rows() -> list[Row]:
    """Every recorded product of the kinds by the present code, whole; `float` once for each number of tokens."""
    found = []
    for name in RUNS:
        for report in read_run(RESULTS / name).reports.values():
            gpu = gpu_named(report.device)
            assert gpu is not None
            for row in report.rows:
                if row.scheme in KINDS and _is_present(name, row.scheme, row.tokens):
                    found.append(_row(row.scheme, gpu, report.shape, row.tokens, row.total_ms))
            found += [_row("float", gpu, report.shape, tokens, ms) for tokens, ms in report.floats.items()]
    return found


def _is_present(run: str, kind: str, tokens: int) -> bool:
    """Whether the present code multiplies as the run did."""
    return tokens <= FEW or kind not in OLDER_MANY.get(run, ())


def _row(kind: str, gpu: Machine, shape: tuple[int, int], tokens: int, ms: float) -> Row:
    return Row(kind, gpu.name, shape, tokens, ms, bounds_ms(kind, shape, tokens, gpu))


def fit(seen: Sequence[Row]) -> Pace:
    bounds = np.array([one.bounds for one in seen]).T
    measured = np.log([one.ms for one in seen])

    def off(constants: np.ndarray) -> np.ndarray:
        return np.append(np.log(_pace(constants).ms(*bounds)) - measured, DRAWN * (constants - START))

    return _pace(least_squares(off, START, bounds=(LEAST, np.inf), loss="soft_l1", f_scale=0.1).x)


def _pace(constants: np.ndarray) -> Pace:
    fixed, encode, memory, arithmetic, sharp, unpack = (float(one) for one in np.exp(constants))
    return Pace(fixed, encode, memory, arithmetic, 1 + sharp, unpack)


def errors(pace: Pace, unseen: Sequence[Row]) -> list[float]:
    """predicted / measured - 1."""
    return [float(pace.ms(*one.bounds)) / one.ms - 1 for one in unseen]


def held_out(every: Sequence[Row], part: Callable[[Row], Any]) -> list[float]:
    """The errors of each part when the others alone were seen; nothing where there is one part."""
    parts = sorted({part(one) for one in every})
    found: list[float] = []
    for value in parts if len(parts) > 1 else []:
        pace = fit([one for one in every if part(one) != value])
        found += errors(pace, [one for one in every if part(one) == value])
    return found


def summary(found: Sequence[float]) -> HeldOut:
    sizes = np.abs(found)
    lo, hi = np.quantile(found, [0.1, 0.9])
    return HeldOut(len(found), *(round(float(one), 3) for one in (np.median(sizes), lo, hi)))


def step_ms(kind: str, pace: Pace, machine: Machine) -> float:
    """The products of one token through the blocks."""
    return float(BLOCKS * sum(pace.ms(*bounds_ms(kind, shape, 1, machine)) for shape in BLOCK))


def report() -> dict[str, Any]:
    every, kinds = rows(), {}
    parts: dict[str, Callable[[Row], Any]] = {
        "shape": lambda one: one.shape, "tokens": lambda one: one.tokens, "gpu": lambda one: one.gpu,
    }  # fmt: skip
    left: dict[str, list[float]] = {name: [] for name in parts}
    for kind in KINDS:
        mine = [one for one in every if one.kind == kind]
        kinds[kind] = fit(mine)
        for name, part in parts.items():
            left[name] += held_out(mine, part)
    products = {kind: step_ms(kind, kinds[kind], GPUS["H200"]) for kind in STEPS}
    beside = {kind: (STEPS[kind] - products[kind]) / BLOCKS for kind in STEPS}
    decode = [
        (products[kind] + BLOCKS * mean(ms for other, ms in beside.items() if other != kind)) / STEPS[kind] - 1
        for kind in STEPS
    ]
    return {
        "fitted": datetime.now(UTC).strftime("%Y-%m-%d"),
        "kinds": {kind: {name: round(one, 5) for name, one in asdict(pace).items()} for kind, pace in kinds.items()},
        "held_out": {name: asdict(summary(one)) for name, one in {**left, "decode": decode}.items()},
        "block_ms": round(mean(beside.values()), 4),
        "decode": {"measured_ms": STEPS, "what": f"{WHAT}, one CUDA graph, H200"},
        "others": beside_vllm(),
    }


def beside_vllm() -> dict[str, Any]:
    """Humming's products and ours, times as fast as bf16's, from one run."""
    run = json.loads((RESULTS / "matmul_h200.json").read_text(encoding="utf-8"))

    def gains(rows: Sequence[dict[str, Any]], scheme: str) -> list[float]:
        of_tokens = {row["tokens"]: row["float_ms"] / row["total_ms"] for row in rows if row["scheme"] == scheme}
        return [round(of_tokens[tokens], 2) for tokens in TOKENS]

    ours, others = run["shapes"]["gate"]["rows"], run["humming"]["rows"]
    return {
        "whose": "Humming 0.1.20, vLLM's quantized products, and ours, beside bf16 on an H200, 14336 x 4096",
        "tokens": TOKENS,
        **{f"Humming: {name}": gains(others, scheme) for name, scheme in BESIDE.items()},
        **{f"ours: {name}": gains(ours, scheme) for name, scheme in BESIDE.items()},
    }


def main() -> None:
    found = report()
    write(FILE, found)
    print(json.dumps(found["held_out"], indent=1))


if __name__ == "__main__":
    main()
