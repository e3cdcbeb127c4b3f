"""A Linear whose inputs are turned as they come, before anybody sees them: a hook that goes first."""

from __future__ import annotations

from typing import Any

from torch import nn

from quantcore.methods.transforms.turn import Turn

TURN = "input_turn"


def turn_inputs(layer: nn.Module, turn: Turn) -> None:
    """Changes the layer: what enters is turned from now on. Hooks that watch it see what was turned. Copies turn, too.

    Raises: ValueError for a layer that turns already."""
    if turn_of(layer) is not None:
        raise ValueError("this layer turns its inputs already; turn a copy of the layer as it was")
    setattr(layer, TURN, turn)
    layer.register_forward_pre_hook(turn.before, prepend=True)


def turn_of(layer: nn.Module) -> Turn | None:
    """How a layer's inputs are turned; None where they are not."""
    found: Any = layer.__dict__.get(TURN)
    return found if isinstance(found, Turn) else None
