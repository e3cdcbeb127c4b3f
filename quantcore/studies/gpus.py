"""Named GPUs: memory, bandwidth, dense rates by format, compute capability; each row with its source and date.

    GPUS["H100 SXM"].rates["fp8"]           1979 TFLOP/s
    gpu_named("NVIDIA H100 80GB HBM3")      the row that a driver's name means, None for any other

The rows stand in assets/gpus.json, a line each: who finds a wrong figure mends that line and its source. Rates are the
vendor's, dense: a datasheet's figure "with sparsity" is halved; GeForce cards are given at float32 accumulation. A row
whose figures were derived says from what.

`int32`, the plain units that unpack codes, is derived for all: of the vendor's float32 rate outside tensor cores all
where a multiprocessor has as many int32 as float32 units (7.5, 8.0, 12.0; CDNA 3 without dual issue), else half (8.6,
8.9, 9.0; assumed of 10). Source: NVIDIA's Ampere, Ada and Hopper whitepapers, which list both for their own GPUs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcore.model.locate import ASSETS

FILE = ASSETS / "gpus.json"
FLOAT = "bf16"
ARITHMETICS = (FLOAT, "fp8", "int8", "int4", "fp4")


@dataclass(frozen=True)
class Machine:
    """Bandwidth in GB/s and dense rates in TFLOP/s (TOP/s for integers), 2 operations a multiply-add; `rates` lacks
    what it does not multiply; `int32`: TOP/s outside of tensor cores, None where that is not known. `family` ends with
    NVIDIA's compute capability; `measured` here, or read in `source` on the day `looked_up`. `device`: a pattern of
    what the driver calls it; `note`: what else is to be known."""

    name: str
    family: str
    memory_gb: float | None
    bandwidth_gb_s: float
    rates: Mapping[str, float]
    source: str
    int32: float | None = None
    measured: bool = False
    device: str = ""
    looked_up: str = ""
    note: str = ""

    def ridge(self, arithmetic: str) -> float:
        """Operations a byte from which on the arithmetic, not the memory, sets the pace."""
        return 1e3 * self.rates[arithmetic] / self.bandwidth_gb_s

    @property
    def capability(self) -> tuple[int, int] | None:
        """NVIDIA's compute capability, (9, 0) for Hopper; None for what is no NVIDIA GPU."""
        match = re.search(r" (\d+)\.(\d+)$", self.family)
        return (int(match[1]), int(match[2])) if match else None


def _read() -> dict[str, Machine]:
    rows: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {row["name"]: Machine(**row) for row in rows}


GPUS: dict[str, Machine] = _read()
LOOKED_UP = max(gpu.looked_up for gpu in GPUS.values())


def gpu_named(device: str) -> Machine | None:
    """The GPU that a driver's name means, `NVIDIA H100 80GB HBM3` the H100 SXM; None for any other."""
    return next((gpu for gpu in GPUS.values() if re.search(gpu.device, device)), None)


def gpus_like(words: str) -> list[str]:
    """The names of the table that begin as a person writes them, `rtx4090` or `h100-sxm`; one that is it alone."""
    asked = _letters(words)
    if not asked:
        return []
    return [name for name in GPUS if _letters(name) == asked] or [
        one for one in GPUS if _letters(one).startswith(asked)
    ]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("nvidia", "").replace("geforce", ""))
