"""The fast Walsh-Hadamard transform on this GPU: how much of a copy's bandwidth it reaches. One JSON file.

    python -m benchmarks.fwht                    results/fwht.json; a minute, with compiling

The transform of bfloat16 rows and a copy of the same tensor are timed in turn from CUDA graphs, so that both meet the
same clocks and no launch from Python counts: both read it once and write it once. `of_copy` is the copy's median time
over the transform's; the bar is 0.8. Beside it stands the same turn as a product with the matrix. No speed is asserted:
a missed bar is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore.methods.transforms.fwht import turned
from quantcore.methods.transforms.hadamard import rotation
from quantcore.studies.clock import Clock

BAR = 0.8
WIDTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
BYTES = 2**28  # of a tensor, well beyond what the cache holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "fwht.json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here; run it on a machine with a GPU")
    rows = []
    for width in WIDTHS:
        rows.append(measured(width))
        print(rows[-1], flush=True)
        write(args.out, {"machine": describe(), "bar": BAR, "rows": rows})
    missed = [f"{row['width']}: {row['of_copy']}" for row in rows if row["of_copy"] < BAR]
    print("below the bar: " + ", ".join(missed) if missed else f"every width reaches {BAR} of a copy")
    sys.exit(0)


def measured(width: int) -> dict[str, Any]:
    """One width: milliseconds of a copy, the transform and the product, and how exact the transform is."""
    x = torch.randn(BYTES // 2 // width, width, device="cuda", dtype=torch.bfloat16)
    into, matrix = torch.empty_like(x), rotation("hadamard", width).to("cuda", torch.bfloat16)
    calls: dict[str, Callable[[], Any]] = {
        "copy": lambda: into.copy_(x),
        "transform": lambda: turned(x, width),
        "product": lambda: x @ matrix,
    }
    names, works = list(calls), [[call] for call in calls.values()]  # BYTES leave nothing in the cache
    took = dict(zip(names, Clock(x.device).each_ms(works), strict=True))
    few = x[:64]
    wanted = few.double() @ rotation("hadamard", width).cuda()
    apart = float((turned(few, width).double() - wanted).norm() / wanted.norm())
    return {
        "width": width,
        "rows": len(x),
        **{f"{name}_ms": round(ms, 4) for name, ms in took.items()},
        "gb_per_s": round(2 * BYTES / took["transform"] / 1e6),
        "of_copy": round(took["copy"] / took["transform"], 3),
        "relative_error": round(apart, 6),
    }


if __name__ == "__main__":
    main()
