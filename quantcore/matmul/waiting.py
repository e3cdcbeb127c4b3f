"""Quantized layers that wait on disk while others work: their codes and scales in one safetensors file.

    waiting = WaitingLayers(quantized_linears(model), folder / "0")        the model may go now
    layers = waiting.read(device)                                          anew as often as they are needed

Only tensors go into the file, so nothing is run when it is read. What a layer shares with the float model (its bias, a
weight that stays float) is not written: it stays shared.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantcore.matmul.layers import QuantLinear

SHARED = ("bias", "float_weight")


class WaitingLayers:
    """The layers by name, without their codes, and the file that holds those."""

    def __init__(self, layers: Mapping[str, QuantLinear], file: Path) -> None:
        """Write the layers' tensors. Raises: OSError, or SafetensorError, where the disk does not take them."""
        self._file = file
        self._empty: dict[str, QuantLinear] = {}
        tensors: dict[str, Tensor] = {}
        for name, layer in layers.items():
            own = {part: buffer for part, buffer in layer.named_buffers() if part not in SHARED}
            tensors |= {f"{name}.{part}": buffer.contiguous() for part, buffer in own.items()}
            kept = {id(buffer): buffer for buffer in layer.buffers()}
            empty = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in own.values()}
            self._empty[name] = copy.deepcopy(layer, {**kept, **empty})
        save_file(tensors, file)

    def read(self, device: torch.device) -> dict[str, QuantLinear]:
        """The layers as they were, their codes on `device`."""
        tensors = load_file(self._file, device=str(device))
        found = {}
        for name, empty in self._empty.items():
            parts = {id(one): tensors.get(f"{name}.{part}", one) for part, one in empty.named_buffers()}
            found[name] = copy.deepcopy(empty, dict(parts))
        return found
