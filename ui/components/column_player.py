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


def column_player(steps: TileSteps, *, key: str, alt: str, start: int | None = None, compact: bool = False) -> int:
    """Draw the player; the step where the hand has left it. `start` is where it begins (None: `best_step`); `compact`
    leaves out the maps of errors, and tells no step. Raises: ValueError without alt."""
    message = {**describe(steps, key=key, alt=alt), "compact": compact}
    if start is not None:
        message["start"] = min(max(start, 0), len(steps.columns))
    result = _mount(encode(message), key=key, default={"value": None}, on_value_change=_nothing)
    value = result.get("value")
    step = value.get("step") if isinstance(value, dict) else None
    return step if isinstance(step, int) and 0 <= step <= len(steps.columns) else message["start"]


def best_step(steps: TileSteps) -> int:
    """The step whose push takes back the most."""
    return int((steps.rounded_loss - steps.loss[1:]).argmax()) + 1


def _nothing() -> None:
    """The page runs anew by itself, to write the step into its link."""


def describe(steps: TileSteps, *, key: str, alt: str) -> dict[str, Any]:
    """The message to the browser: matrices by rows, six digits a number, losses over that of RTN in the end."""
    if not alt.strip():
        raise ValueError(f"player {key!r} has an empty alt; say what the steps show, with their numbers")
    whole = float(steps.rtn_loss[-1]) or 1.0
    return {
        "key": key,
        "alt": alt,
        "start": best_step(steps),
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
