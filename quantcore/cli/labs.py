"""The lab that a verb of the command line asks: its model in memory, or in its files where it does not fit or --stream
asks for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from quantcore.cli.outputs import progress_bar
from quantcore.cli.texts import TextOptions
from quantcore.lab.lab import Lab
from quantcore.model.config_file import context_of
from quantcore.model.held import held
from quantcore.model.inventory import outline
from quantcore.model.linears import head_of, linear_named, linear_shapes
from quantcore.model.locate import REFERENCE, locate
from quantcore.model.memory import TooLarge
from quantcore.model.tokenizer import tokenizer_of
from quantcore.model.wholeness import partly, require_much
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.fitting import plan_for, require_fits, sorted_out
from quantcore.scheme.plan import Plan
from quantcore.text.reading import Reading, Texts


def checked_plan(scheme: str, model: str) -> Plan:
    """The plan that a text says on this model, asked before the model is loaded or a text is read.

    Raises: ValueError for a text that is none, and for a plan that the model cannot take."""
    Plan.parse(scheme)
    return plan_on(scheme, known_model(model))


def plan_on(scheme: str, known: nn.Module | None) -> Plan:
    """The same on the outline of a model, where there is one."""
    if known is None:
        return Plan.parse(scheme)
    plan = plan_for(scheme, linear_shapes(known))
    require_fits(plan, linear_shapes(known), head_of(known))
    _require_much(known)
    return plan


def sorted_lines(schemes: Sequence[str], model: str) -> tuple[dict[str, str], dict[str, str]]:
    """`sorted_out` of several plans, asked as early."""
    known = known_model(model)
    if known is None:
        return {one: str(Plan.parse(one)) for one in schemes}, {}
    _require_much(known)
    return sorted_out(schemes, linear_shapes(known), head_of(known))


@dataclass(frozen=True)
class _Unloaded:
    """What reads a text as the model will, without the model."""

    tokenizer: Any
    context: int | None


def look_ahead(model: str, texts: TextOptions, *readings: Reading, layer: str | None = None) -> None:
    """Raises: ValueError, before the model is loaded, for a window or a layer that it does not have, and for a window
    that is longer than one of the texts that will be read."""
    if texts.window is None and layer is None:
        return
    if (known := known_model(model)) is None:
        return
    texts.require_context(context := context_of(known.config))
    if layer is not None:
        linear_named(known, layer)
    place = locate(model)
    if place is not None and place.gguf is None:  # a GGUF's tokenizer is made as it is loaded
        texts.require_window(_Unloaded(tokenizer_of(model, place), context), *readings)


def _require_much(known: nn.Module) -> None:
    """Says on stderr what part of a model a scheme cannot reach. Raises: ValueError where that is most of it."""
    require_much(known)
    if ranks().first and (said := partly(known)) is not None:
        print(f"quantcore: {said}", file=sys.stderr)


def known_model(model: str) -> nn.Module | None:
    """The outline of a model that is here and whole; else None, and who loads it says what is wrong."""
    try:
        return outline(model)
    except ValueError:
        return None


def loaded_lab(model: str, device: str | None, texts: Texts) -> Lab:
    """With its model in memory. Raises: ValueError for a device that is not here, and what `load_model` refuses."""
    lab = Lab(model, device, texts=texts)
    if model == REFERENCE:
        lab.load()
        return lab
    with progress_bar("loading") as tell:
        lab.load(tell)
    return lab


def opened_lab(model: str, device: str | None, texts: Texts, stream: bool) -> tuple[Lab, dict[str, Any]]:
    """With its model in memory, or where `stream` asks for it or the memory does not suffice, in its files; and what
    the JSON says of that.

    Raises: ValueError as `loaded_lab`, and what `StreamedModel` refuses."""
    why = "--stream" if stream else None
    if not stream:
        try:
            return _told(loaded_lab(model, device, texts), None)
        except TooLarge as error:
            if Path(model).is_file():  # a GGUF cannot be streamed
                raise
            why = str(error)
            print(f"quantcore: {why}; so it is streamed, one block at a time", file=sys.stderr)
    lab = Lab(model, device, texts=texts)
    with progress_bar("opening") as tell:
        lab.stream(tell)
    return _told(lab, why)


def _told(lab: Lab, why: str | None) -> tuple[Lab, dict[str, Any]]:
    said = filter(None, [partly(held(lab.whole).skeleton)])
    return lab, {"streamed": why is not None, "streamed_why": why, "notices": [*lab.whole.notices, *said]}
