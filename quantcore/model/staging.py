"""Tensors to a GPU and back through pinned memory, in pieces.

CUDA copies to and from ordinary memory through a small buffer of the driver's, and meanwhile other threads wait for the
driver, those that launch kernels too. Here the CPU's half of a copy is a memcpy of the calling thread's own, and the
GPU's half runs beside its kernels: each thread has two pinned pieces, one being filled or emptied while the other is
on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from threading import local

import torch
from torch import Tensor, nn

PIECE = 2**25  # bytes
LEAST = 2**20  # bytes; a smaller tensor goes as it is
MOVERS = 4  # threads that move a model


class _Pinned(local):
    """A thread's two pieces, made when they are first needed."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Tensor, torch.cuda.Event]] = []

    def piece(self, number: int) -> tuple[Tensor, torch.cuda.Event]:
        """The piece whose turn it is, and the event of its last copy."""
        if not self._pieces:
            self._pieces = [
                (torch.empty(PIECE, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
                for _ in range(2)
            ]
        return self._pieces[number % 2]


_pinned = _Pinned()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device: all of it is there, or behind what the current stream has to do."""
    tensor = tensor.detach()
    if device.type != "cuda" or tensor.is_cuda or tensor.nbytes < LEAST or not tensor.is_contiguous():
        return tensor.to(device)
    made, stream = torch.empty_like(tensor, device=device), torch.cuda.current_stream(device)
    for number, (here, there) in enumerate(zip(_split(tensor), _split(made), strict=True)):
        piece, copied = _pinned.piece(number)
        copied.synchronize()
        piece[: len(here)].numpy()[:] = here.numpy()
        there.copy_(piece[: len(here)], non_blocking=True)
        copied.record(stream)
    stream.synchronize()
    return made


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous; a GPU's is read behind what the current stream has to do."""
    if not tensor.is_cuda or tensor.nbytes < LEAST:
        return tensor.cpu().contiguous()
    tensor = tensor.detach().contiguous()
    made, stream = torch.empty_like(tensor, device="cpu"), torch.cuda.current_stream(tensor.device)
    coming: list[tuple[Tensor, Tensor, torch.cuda.Event]] = []

    def arrive() -> None:
        target, piece, copied = coming.pop(0)
        copied.synchronize()
        target.numpy()[:] = piece.numpy()

    for number, (here, there) in enumerate(zip(_split(made), _split(tensor), strict=True)):
        piece, copied = _pinned.piece(number)
        piece[: len(here)].copy_(there, non_blocking=True)
        copied.record(stream)
        if coming:
            arrive()
        coming.append((here, piece[: len(here)], copied))
    arrive()
    return made


def made_on(stream: torch.cuda.Stream, make: Callable[[], Tensor]) -> Tensor:
    """A tensor that is made on the stream and used on the default one, whole when this returns."""
    with torch.cuda.stream(stream):
        made = make()
    stream.synchronize()
    made.record_stream(torch.cuda.default_stream(made.device))
    return made


def move(model: nn.Module, device: torch.device) -> None:
    """All of a model's parameters and buffers to the device; tied ones stay tied."""
    if device.type != "cuda":
        model.to(device)
        return
    tensors = {id(one): one for one in chain(model.parameters(), model.buffers())}
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def moved(tensor: Tensor) -> Tensor:
        return made_on(aside, lambda: to_device(tensor, device))

    with ThreadPoolExecutor(MOVERS) as threads:
        there = dict(zip(tensors, threads.map(moved, tensors.values()), strict=True))
    model._apply(lambda tensor: there.get(id(tensor), tensor))  # type: ignore[no-untyped-call]


def _split(tensor: Tensor) -> tuple[Tensor, ...]:
    """The bytes of a contiguous tensor, a piece each."""
    return torch.split(tensor.view(-1).view(torch.uint8), PIECE)
