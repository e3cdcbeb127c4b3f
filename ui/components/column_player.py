"""GPTQ column by column, under the hand: a slider, Play, and pictures that the browser draws for every step.

The tile's whole sweep goes over once, some 60 kB; no step asks the server. The losses and the errors are the engine's;
the browser only multiplies out each push, -err[:, j] x U[j, j+1:], and colours cells. It starts at the step whose push
takes back the most.

    column_player(steps, key="steps", alt="... 61% ...")

`data-step`, `data-loss` and `data-rtn` of the element are what it shows; `data-drawn` counts its drawings.
"""

from typing import Any

from torch import Tensor

from quantcore.studies.gptq_steps import TileSteps
from ui.components.bridge import component, encode

DIGITS = 6

_mount = component("column_player")


def column_player(steps: TileSteps, *, key: str, alt: str, compact: bool = False) -> None:
    """Draw the player; `compact` leaves out the maps of errors. Raises: ValueError without alt."""
    _mount(encode({**describe(steps, key=key, alt=alt), "compact": compact}), key=key)


def describe(steps: TileSteps, *, key: str, alt: str) -> dict[str, Any]:
    """The message to the browser: matrices by rows, six digits a number, losses over that of RTN in the end."""
    if not alt.strip():
        raise ValueError(f"player {key!r} has an empty alt; say what the steps show, with their numbers")
    whole = float(steps.rtn_loss[-1]) or 1.0
    taken_back = steps.rounded_loss - steps.loss[1:]
    return {
        "key": key,
        "alt": alt,
        "start": int(taken_back.argmax()) + 1,
        "rows": list(steps.rows),
        "columns": list(steps.columns),
        "original": _short(steps.original),
        "adjusted": _short(steps.adjusted),
        "quantized": _short(steps.quantized),
        "rtn": _short(steps.rtn),
        "err": _short(steps.err),
        "factor": _short(steps.factor),
        "rounded_loss": _short(steps.rounded_loss / whole),
        "loss": _short(steps.loss / whole),
        "rtn_loss": _short(steps.rtn_loss / whole),
    }


def _short(values: Tensor) -> Any:
    if values.ndim > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
