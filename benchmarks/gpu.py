"""Everything that wants a GPU, in one go: the tests first, then the measurements, each in a process of its own.

    python -m benchmarks.gpu                          all parts in the order of PARTS; about ten minutes on an H100
    python -m benchmarks.gpu gptq tune                these alone
    python -m benchmarks.gpu --minutes 8              no part is begun, or goes on, after eight minutes
    python -m benchmarks.gpu --out FOLDER             the JSON files there, not in benchmarks/results

Each measurement writes its file as it goes, with machine, versions and date. At the end: one line a part, and the bars
of the matmuls and of GPTQ that were reached or missed. Needs CUDA; for the peer of GPTQ also `pip install
llmcompressor==0.14.0.1 compressed-tensors --no-deps`; with pytest-xdist the tests take a minute or two, without it ten.
Exit code 1 if a part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.rows import RESULTS

ROOT = Path(__file__).parents[1]
PYTEST = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:benchmark"]
if importlib.util.find_spec("xdist"):  # most of the tests' time is compiling
    PYTEST += ["-n", "12"]
PARTS: dict[str, list[str]] = {
    "test_gptq": [*PYTEST, "tests/methods/test_gptq_kernel.py"],
    "gptq": ["-m", "benchmarks.gptq", "--out", "{out}/gptq.json"],
    "test_low_bit": [*PYTEST, "tests/matmul/test_cuda_matmul.py", "-k", "low_bit or unpacked or w4a8"],
    "matmul": ["-m", "benchmarks.matmul", "--out", "{out}/matmul.json"],
    "fwht": ["-m", "benchmarks.fwht", "--out", "{out}/fwht.json"],
    "tune": ["-m", "benchmarks.tune_low_bit", "--out", "{out}/tune_low_bit.json"],
    "tune_sweep": ["-m", "benchmarks.tune_gptq_sweep", "--out", "{out}/tune_gptq_sweep.json"],
    "test_cuda": [
        *PYTEST,
        "tests/pipeline/test_cuda.py",
        "tests/matmul/test_cuda_matmul.py",
        "tests/studies/test_what_comes_back.py",
    ],
}
GPTQ_BARS = {"4096 x 4096": 6, "14336 x 4096": 4, "4096 x 14336": 5, "a Llama": 6, "Hessian": 12, "64 conf": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here; run it on a machine with a GPU")
    args.out.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    end, failed = time.monotonic() + 60 * args.minutes, False
    for part in args.parts:
        begun = time.monotonic()
        if begun >= end:
            told.append(f"{part}: not begun, the time was over")
            continue
        print(f"\n== {part}", flush=True)
        command = [sys.executable, *(word.format(out=args.out) for word in PARTS[part])]
        try:
            code: int | str = subprocess.run(command, cwd=ROOT, timeout=end - begun).returncode
        except subprocess.TimeoutExpired:
            code = "stopped, the time was over"
        failed |= code != 0
        told.append(f"{part}: {'done' if code == 0 else f'exit {code}'}, {time.monotonic() - begun:.0f} s")
    print("\n" + "\n".join(told + bars(args.out)))
    sys.exit(int(failed))


def bars(folder: Path) -> list[str]:
    """One line for each bar that the files in the folder speak of."""
    lines = []
    for row in _rows(folder / "gptq.json", "rows"):
        needs = next((least for work, least in GPTQ_BARS.items() if str(row["work"]).startswith(work)), None)
        if needs and "speed-up" in row:
            lines.append(_bar(f"{row['work']}: {row['ours']} ms", row["speed-up"], needs))
    for row in _rows(folder / "matmul.json", "bar"):
        lines.append(_bar(row["work"], row["least"], row["needs"]))
    return lines


def _rows(file: Path, key: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(file.read_text()).get(key, []) if file.exists() else []
    return rows


def _bar(work: object, reached: object, needs: object) -> str:
    assert isinstance(reached, int | float)
    assert isinstance(needs, int | float)
    return f"{'reached' if reached >= needs else 'MISSED '} {reached:6.2f} of {needs:5.2f} times: {work}"


if __name__ == "__main__":
    main()
