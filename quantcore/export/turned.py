"""What turns inputs when a model runs, in a checkpoint's words: compressed-tensors' `transform_config`.

    {"config_groups": {"turn_128": {"type": "hadamard", "head_dim": 128, "apply": [{"targets": [...], "location":
    "input"}, {"targets": [...], "location": "weight_input", "inverse": true}]}}}

The weights in the checkpoint are turned already; "input" is left to do, which vLLM does by its type alone, without a
stored matrix. transformers 5.24 reads no such entry and would compute something else, so it is refused for it. Checked
against compressed-tensors 0.20 and vLLM's transform/linear.py, November 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from quantcore.methods.transforms.options import Quip, Transform, Wush
from quantcore.methods.transforms.turn import Turn
from quantcore.model.layer_names import expert_of
from quantcore.pipeline.turning import turns_online

CONFIG = "transform_config"


def require_turned(transforms: Sequence[Transform], reader: str, quantized: Collection[str]) -> None:
    """Raises: ValueError for turns of inputs that the reader would not do; quantized: the layers' names."""
    if not turns_online(transforms):
        return
    words = ",".join(str(one) for one in transforms if turns_online([one]))
    if any(isinstance(one, Wush) or (isinstance(one, Quip) and one.kind != "hadamard") for one in transforms):
        raise ValueError(
            f"{words} turns inputs by matrices that no reader knows from their type; quip=hadamard has one that vLLM "
            "makes itself"
        )
    if reader == "transformers":
        raise ValueError(
            f"{words} turns inputs when the model runs, and transformers 5.24 would leave that out; write it for vLLM "
            "(--reader vllm), or take rotate=hadamard, which is folded into the weights"
        )
    if experts := [name for name in quantized if expert_of(name)]:
        raise ValueError(
            f"{words} turns the inputs of {len(experts)} experts' Linears, and vLLM, which multiplies experts at once, "
            "would leave that out; write skip=experts, or take rotate=hadamard, which is folded into the weights"
        )


def transform_entry(turns: Mapping[str, Turn], targets_of: Callable[[Sequence[str]], list[str]]) -> dict[str, Any]:
    """The entry of Linears, by name, that turn by Hadamard's matrix; `targets_of` writes names as targets."""
    by_block: dict[int, list[str]] = {}
    for name, turn in turns.items():
        by_block.setdefault(turn.block, []).append(name)
    return {"config_groups": {f"turn_{block}": _scheme(block, targets_of(names)) for block, names in by_block.items()}}


def _scheme(block: int, targets: list[str]) -> dict[str, Any]:
    places = (("input", False), ("weight_input", True))
    return {
        "type": "hadamard",
        "apply": [
            {"targets": targets, "location": place, "inverse": inverse, "ignore": []} for place, inverse in places
        ],
        "randomize": False,
        "requires_grad": False,
        "head_dim": block,
        "precision": "torch.float32",
    }
