"""What a page asked its lab, as a program: the very calls, noted as they were made.

lab = noting(lab)                    a page asks this one
study = lab.layer_study(...)
program(lab)                         "lab = Lab('reference', 'cpu')\\nprint(lab.layer_study(...))"
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, cast

from quantcore.lab.bench import is_own
from quantcore.lab.lab import Lab
from quantcore.text.files import LoadedText
from quantcore.text.reading import Reading

LONGEST_QUOTE = 4000  # characters of a visitor's own text; a longer one is read from a file


class Noting:
    """Passes every question on to the lab, and notes it once."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.calls: dict[str, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.lab, name)
        if name not in vars(Lab):
            return found

        @wraps(found)
        def asked(*args: Any, **more: Any) -> Any:
            self.note(name, *args, **more)
            return found(*args, **more)

        return asked

    def note(self, name: str, *args: Any, **more: Any) -> None:
        """A question and its arguments; those at the end that go without saying are left out."""
        asked = signature(getattr(self.lab, name))
        given = list(asked.bind(*args, **more).arguments.items())
        while given and given[-1][1] == asked.parameters[given[-1][0]].default:
            given.pop()
        values = tuple(value for _, value in given)
        self.calls[f"lab.{name}({', '.join(map(repr, values))})"] = values


def noting(lab: Lab) -> Lab:
    return cast(Lab, Noting(lab))


def lab_of(lab: Lab) -> Lab:
    """The lab itself, for work outside the page."""
    return lab.lab if isinstance(lab, Noting) else lab


def note(lab: Lab, question: Callable[..., Any], *args: Any) -> None:
    """Note a question that something else will ask."""
    if isinstance(lab, Noting):
        lab.note(question.__name__, *args)


def asked(lab: Lab) -> list[str]:
    """The calls that were noted, as they are written."""
    assert isinstance(lab, Noting)
    return list(lab.calls)


def program(lab: Lab) -> str:
    """What was noted, to run wherever quantcore is installed."""
    assert isinstance(lab, Noting)
    own = [one for values in lab.calls.values() for value in values for one in _readings(value)]
    texts = [lab.texts[Reading.parse(one).source] for one in dict.fromkeys(own)]
    quoted = [_read(one) for one in dict.fromkeys(texts)]
    imports = ["from quantcore import Lab"]
    if any(line.startswith("lab.read(LoadedText") for line in quoted):
        imports.append("from quantcore.text.files import LoadedText")
    calls = [f"print({call})" for call in lab.calls]
    return "\n".join([*imports, "", f"lab = Lab({lab.id!r}, {lab.device!r})", *quoted, *calls])


def _readings(value: Any) -> list[str]:
    """The readings of own texts in an argument."""
    if isinstance(value, tuple):
        return [one for part in value for one in _readings(part)]
    return [value] if is_own(value) else []


def _read(own: LoadedText) -> str:
    """The line that reads a visitor's text: as it is, from a file of its name, or from the hub."""
    if own.revision is None and own.characters <= LONGEST_QUOTE:
        return f"lab.read(LoadedText({own.name!r}, {own.documents!r}))"
    return f"lab.read({own.name!r})"
