"""What machine and which versions a figure was measured with."""

from __future__ import annotations

import platform

import torch


def versions() -> dict[str, str]:
    """Versions that a figure depends on."""
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
