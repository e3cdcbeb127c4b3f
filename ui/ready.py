"""What most visitors ask first, found ahead: course, default duel, rules and caches that run without a click, what
layers cost for plans of any budget, luck.

get_ready(lab)      in a thread beside the server, once the model is warm

Measured is at the lowest priority, and let go at its next layer when a visitor asks for a job; it begins again when
nobody waits. The store keeps each scheme as soon as it is measured, so nothing whole is done twice, and the next start
of the server finds all of it; the course's scenes, a few seconds, are found anew at each start. Measured here rather
than shipped: the numbers are this machine's and this model's. With QUANT_AHEAD=off nothing is measured before somebody
asks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from quantcore.lab.bench import LEARNED, PLANNED_ON
from quantcore.lab.context import usual_question
from quantcore.lab.lab import Lab
from quantcore.text.reading import EVALUATE
from ui import kept
from ui.course import answers, game
from ui.course.scene import Missing, scenes
from ui.course.scenes import s14_ship
from ui.line import step_back
from ui.sections.plan import usual_schemes

VARIABLE = "QUANT_AHEAD"
DEFAULT_DUEL = "W8A8\nW4A16\nw:int4/channel\nW3A16"
DUEL_TOKENS = (2560, 5120, 16384)
RULES = ("int4-groups", "int8-tokens")  # run without a click: rounding to nearest, a few seconds
RULE_TOKENS = (2560, 5120, 16384)
LOOK_S = 2.0  # between two looks at whether anybody waits
LEAST_PRIORITY = 15  # of 19 steps

Question = tuple[Callable[..., Any], tuple[Any, ...]]


class VisitorFirst(Exception):
    """Somebody asked for a job: what is done ahead makes room."""


def questions(lab: Lab) -> Iterator[Question]:
    """What the pages ask without a click, as they ask it."""
    reading = str(EVALUATE.at_most(DUEL_TOKENS[0]))
    yield Lab.duel, (tuple(lab.able(DEFAULT_DUEL.split())), reading, LEARNED)
    reading = str(EVALUATE.at_most(RULE_TOKENS[0]))
    for rule in RULES:
        yield Lab.rule, (rule, reading, LEARNED)
    yield from of_the_course(lab)
    try:
        yield Lab.context_lens, usual_question(lab)
    except ValueError:  # a model without such a cache: the page says it
        pass
    for schemes in usual_schemes(lab):  # so that no budget waits: what takes long is the same for few schemes and many
        yield Lab.sensitivity, (schemes, False, PLANNED_ON, LEARNED, True)
    for rule in RULES:
        if (found := lab.kept_rule(rule, reading, LEARNED)) is not None:
            yield Lab.luck, (tuple(found.duel.reports), reading, LEARNED)


def of_the_course(lab: Lab) -> Iterator[Question]:
    """What its last scenes measure on whole models."""
    able = s14_ship.find(lab)
    if not isinstance(able, Missing):
        for rule in able.of:
            yield Lab.rule, (rule, s14_ship.READING, LEARNED)
    yield from game.questions(lab)


def get_ready(lab: Lab) -> None:
    """Measure what is not kept yet."""
    if os.environ.get(VARIABLE) == "off":
        return
    find_scenes(lab, measured=False)  # a few seconds: at once
    step_back(LEAST_PRIORITY)
    for question, asked in questions(lab):
        name = question.__name__
        while getattr(lab, f"kept_{name}")(*asked) is None:
            while kept.jobs().unfinished():
                time.sleep(LOOK_S)
            try:
                question(lab, *asked, progress=_make_room, so_far=_make_room)
            except VisitorFirst:
                continue
            except ValueError:  # the model's own reason: the page says it where the question stands
                break
    find_scenes(lab, measured=True)


def find_scenes(lab: Lab, measured: bool) -> None:
    """What the course asks and reveals; `measured`: of the scenes for which whole models are measured, else of the
    others."""
    for scene in scenes():
        if (scene.measure is not None) is not measured:
            continue
        while kept.jobs().unfinished():
            time.sleep(LOOK_S)
        with suppress(ValueError):  # the model's own reason: the scene says it
            if not isinstance(answers.found(lab, scene), Missing):
                answers.revealed(lab, scene)


def _make_room(*_: Any) -> None:
    if kept.jobs().unfinished():
        raise VisitorFirst
