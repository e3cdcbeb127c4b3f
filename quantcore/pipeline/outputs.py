"""How far each quantized layer's output is from the float layer's on the same input: SQNR, whole and by window."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.numbers.distance import sqnr_db

OUTPUT_TOKENS = 2048  # of a text, on which the layers' outputs are compared


class OutputSqnr(NamedTuple):
    """SQNR of a layer's output in dB: over all windows, and the least and largest of a single one; None where no token
    reached the layer."""

    whole: float | None
    windows: tuple[float, float] | None


class OutputSums:
    """Sums of squares of signal and noise, (2, windows) for each call of the layer; not yet read from the device."""

    def __init__(self, layer: QuantLinear) -> None:
        self.layer = layer
        self._calls: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """x (windows, T, K), or (tokens, K) of an expert, turned where the layer turns; y the float layer's output."""
        y = y.float()
        windows = len(x) if x.ndim == 3 else 1
        sums = [
            part.square().reshape(windows, -1).sum(1, dtype=torch.float64) for part in (y, self.layer.forward(x) - y)
        ]
        self._calls.append(torch.stack(sums))

    def sqnr(self, windows: int) -> OutputSqnr:
        """`windows`: how many the text has."""
        pairs = [pair for call in self._calls for pair in zip(*call.tolist(), strict=True)]
        each = [sqnr_db(*pair) for pair in pairs]
        whole = sqnr_db(*(math.fsum(part) for part in zip(*pairs, strict=True))) if pairs else None
        return OutputSqnr(whole, (min(each), max(each)) if len(each) == windows else None)


@contextmanager
def compared(module: nn.Module, sums: Mapping[str, Sequence[OutputSums]]) -> Iterator[None]:
    """While the context lasts, each call by this thread of one of the module's layers, by name, adds to its sums."""
    here = threading.get_ident()

    def hook_for(name: str) -> object:
        def see(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
            if threading.get_ident() == here:
                for one in sums[name]:
                    one.add(inputs[0], y)

        return see

    hooks = [module.get_submodule(name).register_forward_hook(hook_for(name)) for name in sums]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
