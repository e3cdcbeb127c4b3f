"""The model that a verb of the command line works on: whole in memory, or left in its files where it does not fit or
--stream asks for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from quantcore.cli.outputs import progress_bar
from quantcore.model.loading import REFERENCE, LoadedModel, devices, load_model
from quantcore.model.memory import TooLarge
from quantcore.model.streamed import StreamedModel


def load(model: str, device: str | None) -> LoadedModel:
    """The model of that name. Raises: ValueError for a device that is not here, and what `load_model` refuses."""
    _require_device(device)
    if model == REFERENCE:
        return load_model(model, device)
    with progress_bar("loading") as tell:
        return load_model(model, device, tell)


class Opened(NamedTuple):
    """The model, whole or in its files; `why` it is streamed, None where it is not."""

    model: LoadedModel | StreamedModel
    why: str | None

    def facts(self) -> dict[str, Any]:
        """How the weights were held, and what their reader must know, for the JSON."""
        return {"streamed": self.why is not None, "streamed_why": self.why, "notices": list(self.model.notices)}


def opened(model: str, device: str | None, stream: bool) -> Opened:
    """The model of that name: loaded, or where `stream` asks for it or the memory does not suffice, left in its files.

    Raises: ValueError as `load`, and what `StreamedModel` refuses."""
    _require_device(device)
    why = "--stream"
    if not stream:
        try:
            return Opened(load(model, device), None)
        except TooLarge as error:
            if Path(model).is_file():  # a GGUF cannot be streamed
                raise
            why = str(error)
            print(f"quantcore: {why}; so it is streamed, one block at a time", file=sys.stderr)
    with progress_bar("opening") as tell:
        return Opened(StreamedModel(model, device, tell), why)


def _require_device(device: str | None) -> None:
    known = devices()
    if device not in (None, *known, *(["cuda"] if len(known) > 1 else [])):
        raise ValueError(f"device {device!r} is not on this machine; it has {', '.join(known)}")
