"""Class mode: what a server for strangers allows. Switched on by one variable, which also names the models.

    QUANT_CLASS="reference, HuggingFaceTB/SmolLM2-135M, /models/mine" streamlit run serve.py --server.address 0.0.0.0

Without it the server is its user's own: any model is loaded that the user may read, and only this machine reaches it
(`require_address`). QUANT_TEACHER is the word that opens the teacher's page; without it each start draws one, and says
it in the log.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quantcore.model.sources import HUB_ID, REFERENCE

VARIABLE, TEACHER, OPEN = "QUANT_CLASS", "QUANT_TEACHER", "QUANT_OPEN"
MOST_WAITING = 2  # jobs of one visitor
VISITOR = "lab_visitor"  # the cookie that tells one browser from another: a random number, gone with the browser
LEAVE_S = 20.0  # that a job goes on after the last who waits for it has gone: a phone finds its network again
GONE_S = 60.0  # from a tab's closing to the end of its session, with all that the visitor brought
EXPORT_BYTES = 2 * 10**9  # of all checkpoints together; the oldest go
PATH = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)[^\s'\"`,;:()]+(?:[/\\][^\s'\"`,;:()]+)+")


@dataclass(frozen=True)
class Classroom:
    """models: what visitors call a model -> what is loaded for it."""

    models: Mapping[str, str]

    def source(self, model_id: str) -> str:
        """What to load for a visitor's word. Raises: ValueError for what is not on the list, the same for all of it."""
        if model_id not in self.models:
            raise ValueError(f"this server shows the models that its teacher chose: {', '.join(self.models)}")
        return self.models[model_id]


def classroom() -> Classroom | None:
    """The class that this server serves; None where it serves its own user. Raises: ValueError for a bad list."""
    return _parsed(os.environ.get(VARIABLE, "").strip())


@cache
def _parsed(named: str) -> Classroom | None:
    if not named:
        return None
    models = {REFERENCE: REFERENCE}
    for source in [one.strip() for one in named.split(",") if one.strip()]:
        path = Path(source).expanduser()
        if source == REFERENCE or not path.exists():
            if not HUB_ID.fullmatch(source):
                raise ValueError(f"{VARIABLE} names {source!r}, which is no model: give reference, a folder, or an id")
            models[source] = source
        else:
            name = path.resolve().name
            if models.get(name, str(path)) != str(path):
                raise ValueError(f"{VARIABLE} names two models {name!r}, and links could not tell them apart")
            models[name] = str(path)
    return Classroom(models)


def model_source(model_id: str) -> str:
    """What to load for a model's id. Raises: ValueError in class mode for what the teacher has not named."""
    here = classroom()
    return model_id if here is None else here.source(model_id)


@cache
def teachers_word() -> str:
    """What opens the teacher's page."""
    return os.environ.get(TEACHER) or secrets.token_urlsafe(12)


def is_teachers(word: str) -> bool:
    """Whether somebody knows the word."""
    return secrets.compare_digest(word.encode(), teachers_word().encode())


def require_address(address: str | None) -> None:
    """Raises: ValueError where others reach a server that would load for them whatever its user may read."""
    if classroom() is not None or os.environ.get(OPEN) or is_loopback(address):
        return
    raise ValueError(
        f"this server would listen on {address or 'every address'}, and whoever reaches it could load any model that "
        f"you can read; say {VARIABLE}=reference to serve a class, or {OPEN}=1 if you trust all who reach it"
    )


def is_loopback(address: str | None) -> bool:
    """Whether only this machine reaches the address."""
    try:
        if address == "localhost" or (address or "").startswith("unix://"):
            return True
        return ipaddress.ip_address(address or "0.0.0.0").is_loopback
    except ValueError:
        return False


def without_paths(text: str) -> str:
    """In class mode, `text` without the server's paths; else as it is."""
    here = classroom()
    if here is None:
        return text
    for name, source in here.models.items():
        if name != source:
            text = text.replace(str(Path(source).expanduser().resolve()), name).replace(source, name)
    return PATH.sub("a file of the server", text)
