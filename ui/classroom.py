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

from quantcore.model.locate import HUB_ID, REFERENCE, locate
from quantcore.model.named_path import named_path
from quantcore.model.sentences import quoted

VARIABLE, TEACHER, OPEN = "QUANT_CLASS", "QUANT_TEACHER", "QUANT_OPEN"
SHORTEST_WORD = 8  # characters of the teacher's word: a class may try a few
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
        path = _path(source)
        if source == REFERENCE or path is None:
            if not HUB_ID.fullmatch(source):
                raise ValueError(
                    f"{VARIABLE} names {quoted(source)}, which is no model: give reference, a folder, a GGUF file, or "
                    "an id"
                )
            models[source] = source
        else:
            name = path.resolve().name
            if models.get(name, str(path)) != str(path):
                raise ValueError(
                    f"{VARIABLE} names two models {quoted(name)}, and links could not tell them apart; rename one"
                )
            models[name] = str(path)
    return Classroom(models)


def _path(source: str) -> Path | None:
    """A folder or file that is there; None for what is none, such as an id. Raises: ValueError for what holds no
    model, with the variable's name."""
    try:
        path = named_path(source)
        if not path.exists():
            return None
        locate(source)
    except (ValueError, OSError) as error:
        raise ValueError(f"{VARIABLE} names a model that cannot be: {error}") from error
    return path


def model_source(model_id: str) -> str:
    """What to load for a model's id. Raises: ValueError in class mode for what the teacher has not named."""
    here = classroom()
    return model_id if here is None else here.source(model_id)


@cache
def teachers_word() -> str:
    """What opens the teacher's page. Raises: ValueError for a word that a class would guess."""
    word = os.environ.get(TEACHER, "")
    if word and len(word.strip()) < SHORTEST_WORD:
        raise ValueError(
            f"{TEACHER} has {len(word.strip())} characters and opens the teacher's page; give {SHORTEST_WORD} or more, "
            "or none: then each start draws a word"
        )
    return word or secrets.token_urlsafe(12)


def is_open_to_all() -> bool:
    """Whether the user trusts all who reach the server. Raises: ValueError for a word that is neither yes nor no."""
    said = os.environ.get(OPEN, "").strip()
    if said not in ("", "0", "1"):
        raise ValueError(f"{OPEN} is {quoted(said)}; say 1 if you trust all who reach this server, else leave it out")
    return said == "1"


def is_teachers(word: str) -> bool:
    """Whether somebody knows the word."""
    return secrets.compare_digest(word.encode("utf-8", "replace"), teachers_word().encode("utf-8", "replace"))


def require_address(address: str | None) -> None:
    """Raises: ValueError where others reach a server that would load for them whatever its user may read, and for a
    variable that does not say what it should."""
    trusted = is_open_to_all()
    if classroom() is not None:
        teachers_word()
        return
    if trusted or is_loopback(address):
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
