"""What a figure was measured on: processor, cores, memory, versions, date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "transformers", "compressed-tensors", "llmcompressor", "streamlit", "plotly")


def describe() -> dict[str, Any]:
    """The machine and the versions that a benchmark's figures depend on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _first(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **_gpu(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _gpu() -> dict[str, Any]:
    import torch  # seconds to import: only when asked

    if not torch.cuda.is_available():
        return {}
    facts = torch.cuda.get_device_properties(0)
    return {
        "gpu": facts.name,
        "gpu_memory_gib": round(facts.total_memory / 2**30, 1),
        "multiprocessors": facts.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def resident_bytes(pid: int) -> int:
    """Memory a process holds, as the kernel counts it (VmRSS)."""
    return int(_first(Path(f"/proc/{pid}/status"), "VmRSS").split()[0]) * 1024


def _first(file: Path, name: str) -> str:
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
