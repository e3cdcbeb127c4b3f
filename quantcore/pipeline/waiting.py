"""Hidden states that wait between two blocks: on their device where all fit into a part of what is free there, else in
this machine's pinned memory, from which the next batch comes while the device works on this one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantcore.model.memory import free_memory

SHARE = 0.5  # of a GPU's free memory that one text's hidden states may take


class _Coming(NamedTuple):
    tensor: Tensor
    there: torch.cuda.Event


class Waiting:
    """A list of tensors, the batches of one text; `states[i]` is on the device, whatever lies where."""

    def __init__(self, device: torch.device, windows: int) -> None:
        """`windows`: how many there are in all, over all batches."""
        self._device, self._windows = device, windows
        self._states: list[Tensor] = []
        self._coming: dict[int, _Coming] = {}
        self._beside: torch.cuda.Stream | None = None

    def __len__(self) -> int:
        return len(self._states)

    def append(self, hidden: Tensor) -> None:
        """One more batch, (windows, T, hidden numbers); the first tells how much all will take."""
        if not self._states and not _fits(self._device, hidden.nbytes * self._windows // len(hidden)):
            self._beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if self._beside is None:
            self._states.append(hidden)
        else:
            self._states.append(torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True))
            self[len(self._states) - 1] = hidden

    def __getitem__(self, index: int) -> Tensor:
        if self._beside is None:
            return self._states[index]
        tensor, there = self._coming.pop(index) if index in self._coming else self._fetched(index)
        following = (index + 1) % len(self._states)
        if following not in self._coming:
            self._coming[following] = self._fetched(following)
        here = torch.cuda.current_stream(self._device)
        here.wait_event(there)
        tensor.record_stream(here)
        return tensor

    def __setitem__(self, index: int, hidden: Tensor) -> None:
        if self._beside is None:
            self._states[index] = hidden
            return
        self._coming.pop(index, None)
        self._beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._beside):
            self._states[index].copy_(hidden, non_blocking=True)
        hidden.record_stream(self._beside)

    def _fetched(self, index: int) -> _Coming:
        assert self._beside is not None
        with torch.cuda.stream(self._beside):
            return _Coming(self._states[index].to(self._device, non_blocking=True), self._beside.record_event())


def _fits(device: torch.device, needed: int) -> bool:
    if device.type != "cuda":
        return True
    free = free_memory(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free is not None and needed <= SHARE * (free[0] + cached)
