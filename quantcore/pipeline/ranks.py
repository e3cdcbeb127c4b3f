"""Several processes on one piece of work, as torchrun starts them: one for each GPU, on any number of machines.

    with sharing(Ranks.joined("cuda")):          # in each of the processes
        export_checkpoint(...)

A process, a rank, reads its own share of the windows. What it sums on the way, Hessians and ranges, is put together;
each set of layers that share a Hessian has an owner, which solves it and hands the codes to the others, so that every
rank has the same quantized block for the next one. One rank, the first, reports and writes. Outside of `sharing` there
is one rank, which owns everything: nothing here does anything then.

Every rank must call the same functions in the same order. An error of one is raised by all (`together`): else the
others would wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among `size` of them; `rank` counts from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that reports and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def share(self, windows: Tensor) -> Tensor:
        """This rank's windows, (mine, T): neighbours, in the ranks' order; none where there are fewer than ranks."""
        return torch.tensor_split(windows, self.size)[self.rank]

    def all_said(self, mine: T) -> list[T]:
        """What every rank says, in their order; whatever can be pickled, so for small things."""
        if self.alone:
            return [mine]
        from torch import distributed

        said: list[Any] = [None] * self.size
        distributed.all_gather_object(said, mine)
        return said

    def together(self, problem: Exception | None) -> None:
        """Raises: the first rank's error, on every rank, where one of them has any."""
        for one in self.all_said(problem):
            if one is not None:
                raise one

    def named(self, device: str) -> str:
        """What all of them run on, in words: `2 x NVIDIA H200`."""
        return device if self.alone else f"{self.size} x {device}"

    def sum_to(self, owner: int, tensor: Tensor) -> None:
        """Add up a tensor of every rank; the owner's holds the sum, what the others' hold is of no use any more."""
        if not self.alone:
            from torch import distributed

            distributed.reduce(tensor, owner)

    def spread(self, owner: int, tensor: Tensor) -> None:
        """Give every rank the owner's numbers; all have a tensor of that shape and type."""
        if not self.alone:
            from torch import distributed

            distributed.broadcast(tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor, owner)


def owners(costs: Sequence[float], size: int) -> list[int]:
    """Who takes which piece of work: the dearest first, each to the rank that has least to do by then."""
    load, found = [0.0] * size, [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda index: -costs[index]):
        found[piece] = min(range(size), key=lambda rank: load[rank])
        load[found[piece]] += costs[piece]
    return found


ALONE = Ranks()
_here: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


def ranks() -> Ranks:
    """Those that this thread works with; one, where nobody shares."""
    return _here.get() or ALONE


@contextmanager
def sharing(those: Ranks) -> Iterator[Ranks]:
    """Inside it the road, a comparison and an export share their work with the other ranks."""
    token = _here.set(those)
    try:
        yield those
    finally:
        _here.reset(token)
