"""A long answer on a page: the one that is kept, else a job's.

found = answer("3 schemes on 2,560 tokens", choice.lab, Lab.duel, schemes, reading)
found.whole       None until it is there; meanwhile the job's progress stands where this was called
found.so_far      what the job has shown of it by then
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from quantcore.lab.lab import Lab
from ui import job_view
from ui.job import Teller
from ui.python_code import lab_of, note

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    whole: T | None
    so_far: Any = None


def answer(title: str, lab: Lab, question: Callable[..., T], *asked: Any, turn: int = 0, **view: Any) -> Answer[T]:
    """Ask one of the lab's long questions, which tell `progress` and `so_far`; `kept_...` of the same name says whether
    the answer is kept.

    turn    to ask the same question again, for a measurement
    view    as `job_view.result_of` has it; a question stands in one place of a page, where nothing else is said"""
    bare, name = lab_of(lab), question.__name__
    if view.get("start", True):
        view.setdefault("place", f"{name} {turn}")
    kept = getattr(bare, f"kept_{name}", lambda *_: None)(*asked)
    if kept is not None:
        note(lab, question, *asked)
        return Answer(kept)
    key = job_key(lab, question, *asked, turn=turn)

    def work(tell: Teller) -> T:
        found: T = getattr(bare, name)(*asked, progress=tell, so_far=tell.show)
        return found

    whole: T | None = job_view.result_of(bare.device, key, title, work, **view)
    if whole is not None or job_view.begins(key, **view):
        note(lab, question, *asked)
    return Answer(whole, job_view.so_far(key) if whole is None else None)


def job_key(lab: Lab, question: Callable[..., Any], *asked: Any, turn: int = 0) -> str:
    """The job that finds the answer."""
    return "|".join([question.__name__, lab.id, lab.device, str(turn), *map(str, asked)])
