"""What the command line says of this machine, of its own texts, and of what a scheme may say; see `verbs`."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from quantcore.model.inventory import inventory
from quantcore.model.loading import devices
from quantcore.model.locate import REFERENCE
from quantcore.model.machine import device_name
from quantcore.numbers.formats import FORMATS
from quantcore.scheme.scheme import PRESETS
from quantcore.text.windows import TEXT_KINDS, TEXT_SPLITS, bundled_text

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "compressed-tensors", "numpy", "streamlit", "plotly",
)  # fmt: skip
GRANULARITIES = {
    "tensor": "one scale for the whole tensor; weights and activations",
    "channel": "one scale for each output row; weights",
    "token": "one scale for each token, at run time; activations",
    "group128": "one scale for each 128 (or any other number) neighbours along in_features; weights and activations",
    "block128x128": "one scale for each 128 x 128 (or other) block, rows x columns; weights",
}
OBSERVERS = {
    "minmax": "the range is [min, max]; the default, never written",
    "p99.9": "leaves 0.1% of the values out at each end; any percentage above 50",
    "mse": "the min-max range shrunk to the least squared error",
    "search": "of scales in e8m0 or e4m3, that around min-max's with the least squared error; weights",
    "search=h": "the same, each column's error weighted with how loud its inputs are, diag(X^T X)",
    "ema0.01": "moving average of each window's min and max, momentum 0.01 (or another); static activations",
}


def info(model: str = REFERENCE) -> dict[str, Any]:
    """versions, devices, the model's blocks and Linears (from its headers), our own texts"""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": [{"device": name, "name": device_name(torch.device(name))} for name in devices()],
        "model": asdict(inventory(model)),
        "texts": {
            split: {kind: {"characters": len(bundled_text(split, kind))} for kind in TEXT_KINDS}
            for split in TEXT_SPLITS
        },
    }


def schemes() -> dict[str, Any]:
    """everything that a scheme's text may say"""
    return {
        "presets": {name: str(scheme) for name, scheme in PRESETS.items()},
        "formats": [
            {"name": fmt.name, "bits": fmt.bits, "qmin": fmt.qmin, "qmax": fmt.qmax, "levels": len(fmt.grid())}
            for fmt in FORMATS.values()
        ],
        "granularities": GRANULARITIES,
        "observers": OBSERVERS,
        "luck": {"jitter3": "weights: each scale moved within half a 16-bit grain by seed 3: other rounding luck"},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
