"""The labs that a server keeps: as many as fit, counted in bytes, the latest asked for longest.

    shelf = Shelf(most_bytes)
    lab = shelf.get("reference", "cpu", make)       made where it is not kept

A lab weighs what its model holds and what it remembers, on its own device. Whenever one is asked for, the oldest on
that device go until all together are within the device's share; the one that is asked for stays, however large it is. A
job or a page that still holds a lab which went keeps it until it ends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

from quantcore.lab.lab import Lab
from quantcore.model.memory import free_memory

SHARE = 2  # of a device's memory a half
UNKNOWN_BYTES = 4 * 2**30  # where it does not say how much it has
MOST = 32  # labs that nobody has loaded weigh nothing


def half_of(device: str) -> int:
    """How many bytes labs may hold on a device."""
    known = free_memory(torch.device(device))
    return UNKNOWN_BYTES if known is None else known[1] // SHARE


class Shelf:
    """Labs by model and device."""

    def __init__(self, most_bytes: Callable[[str], int] = half_of) -> None:
        self._labs: OrderedDict[tuple[str, str], Lab] = OrderedDict()
        self._lock = threading.RLock()
        self._most_bytes = most_bytes

    def get(self, model: str, device: str, make: Callable[[str, str], Lab]) -> Lab:
        """The lab, made by `make(model, device)` where it is not kept. Raises what that raises."""
        with self._lock:
            found = self._labs.pop((model, device), None) or make(model, device)
            self._labs[model, device] = found
            for key in self._too_many(device):
                del self._labs[key]
            return found

    def __len__(self) -> int:
        return len(self._labs)

    def _too_many(self, device: str) -> list[tuple[str, str]]:
        """Which labs have to go, oldest first; never the last."""
        gone = list(self._labs)[: max(0, len(self._labs) - MOST)]
        beside = [key for key in self._labs if key[1] == device and key not in gone]
        held = {key: self._labs[key].held_bytes for key in beside}
        over = sum(held.values()) - self._most_bytes(device)
        for key in beside[:-1]:
            if over <= 0:
                break
            gone.append(key)
            over -= held[key]
        return gone
