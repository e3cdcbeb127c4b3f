"""How much memory a model needs as it is held here, and how much is free: asked before anything is loaded."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

MEMINFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
CGROUP = Path("/sys/fs/cgroup")
GIB = 2**30
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")
ASKED = re.compile(r"(?:tried to|unable to) allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB)", re.IGNORECASE)
UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class TooLarge(ValueError):
    """More memory is needed than there is: what can be streamed need not be loaded."""


def free_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes free and in all, of a GPU or of this machine; None where the system does not say.

    A container's own limit, or one that this process was given (ulimit), counts where it is the narrower one; pages
    that only cache files count as free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="ascii").splitlines())
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None
    return min([(free, total), *filter(None, (_container(), *_process()))])


def _container() -> tuple[int, int] | None:
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, KeyError, ValueError):  # no container, or no limit ("max")
        return None
    return max(0, limit - used + int(cached)), limit


def _process() -> list[tuple[int, int]]:
    """What this process may still take, and may take in all, under each limit of its own."""
    try:
        import resource  # of Unix

        lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines())
        limits = {"VmData": resource.RLIMIT_DATA, "VmSize": resource.RLIMIT_AS}
        known = {name: resource.getrlimit(kind)[0] for name, kind in limits.items()}
        used = {name: int(lines[name].split()[0]) * 1024 for name in known}
    except (ImportError, OSError, KeyError, ValueError):
        return []
    return [(max(0, most - used[name]), most) for name, most in known.items() if most != resource.RLIM_INFINITY]


def require_memory(what: str, needed: int, device: torch.device) -> None:
    """Raises: TooLarge, with both figures and the way out, where `needed` bytes are more than the device has free."""
    found = free_memory(device)
    if found is None or needed <= found[0]:
        return
    free, total = found
    place = f"GPU {device}" if device.type == "cuda" else "this machine"
    out = "choose the CPU as device, or " if device.type == "cuda" else ""
    raise TooLarge(
        f"{what} needs {size(needed)} of memory and {place} has {size(free)} of {size(total)} free; "
        f"{out}take a smaller model, or end other programs"
    )


def is_lack_of_memory(error: BaseException, words: str) -> bool:
    """Whether an error, which says `words`, is one; on the CPU torch raises a RuntimeError."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(mark in words.lower() for mark in OUT_OF_MEMORY)


def asked_for(words: str) -> str | None:
    """How much such an error asked for, in words; None where it does not say."""
    asked = ASKED.search(words)
    return size(float(asked[1]) * UNITS[asked[2].lower()]) if asked else None


def give_back() -> None:
    """Hand freed memory back to the system. glibc keeps matrices of less than 32 MB for later, between others that
    live, and what it keeps grows with every block that passes; elsewhere this does nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def size(count: float) -> str:
    """Bytes in words: 1.27 GiB, 310.4 MiB."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"
