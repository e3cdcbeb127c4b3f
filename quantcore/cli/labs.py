"""The lab that a verb of the command line asks: its model in memory, or in its files where it does not fit or --stream
asks for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quantcore.cli.outputs import progress_bar
from quantcore.lab.lab import Lab
from quantcore.model.loading import REFERENCE
from quantcore.model.memory import TooLarge
from quantcore.scheme.plan import Plan
from quantcore.text.reading import Texts


def checked_plan(scheme: str, model: str, device: str | None) -> Plan:
    """The plan that a text says on this model, asked before the model is loaded or a text is read.

    Raises: ValueError for a text that is none, and for a plan that the model cannot take."""
    lab = Lab(model, device)
    lab.require_fits(scheme)
    return lab.plan_of(scheme)


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
    return lab, {"streamed": why is not None, "streamed_why": why, "notices": list(lab.whole.notices)}
