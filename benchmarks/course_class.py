"""Thirty students follow a teacher: how soon a reveal reaches all of them, and what the server pays for it.

    python -m benchmarks.course_class                 prints the table, writes results/course_class.json

A real server in class mode; the students are WebSocket clients that rerun their fragments as a browser would, so all of
the server's work is done and nothing is drawn. The teacher's page opens a class, every student guesses, the teacher
shows the answer; measured is the time from that press until a student's page has the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.rows import RESULTS, write
from benchmarks.served import serving
from tests.visits import Visitor, visit

WORD = "the-teachers-word"
TITLES = {9: "A scale per token", 4: "Clip", 7: "What a scale costs"}  # a wipe, a number on an axis, a count
TAKEN = "You may change it"
MARK = "**But:**"  # stands on every answer's page


async def lesson(url: str, count: int) -> dict[str, list[float]]:
    """Seconds to every student, reveal by reveal."""
    seen: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        teacher = await stack.enter_async_context(visit(url))
        await teacher.open("Course", f"scene={next(iter(TITLES))}&teacher={WORD}")
        if not any("Present to a class" in one for one in teacher.words):
            raise RuntimeError(f"the teacher's page offers no class; it says {teacher.words[-12:]}")
        await teacher.press("Present to a class")
        code = next(one for text in teacher.words[::-1] for one in re.findall(r'course-code">([A-Z0-9]{6})<', text))
        students = [await stack.enter_async_context(visit(url)) for _ in range(count)]
        await asyncio.gather(*(one.open("Course", f"join={code}") for one in students))
        for number, title in TITLES.items():
            await teacher.press(f"{number}. {title}")
            await asyncio.gather(*(one.follow(4.0) for one in students), teacher.follow(4.0))
            await asyncio.gather(*(guess(one, place) for place, one in enumerate(students)))
            watching = [asyncio.create_task(one.follow(60.0, MARK)) for one in students]
            started = time.perf_counter()
            times = [asyncio.create_task(_timed(one, started)) for one in watching]
            await teacher.press("Show")
            await asyncio.gather(*times)
            seen[str(number)] = [one.result() for one in times]
    return seen


async def guess(student: Visitor, place: int) -> None:
    """Some number or other on a ruler, some option or other of a row."""

    def choose(state: Any, element: Any) -> None:
        if hasattr(element, "options"):
            state.string_array_value.data.append(element.options[place % len(element.options)].content)
            return
        ruler = json.loads(element.bytes)
        text = f"{ruler['lo'] + place % 10 * ruler['step']:g}"
        state.json_value = json.dumps({"value": {"text": text, "start_id": ruler["start_id"]}})

    seen = len(student.words)
    await student.move(_is_control, choose)  # ends with the run under way, which may be one before
    if not any(TAKEN in one for one in student.words[seen:]) and not await student.follow(10.0, TAKEN):
        raise RuntimeError(f"a guess was not taken; the page says {student.words[-12:]}")


def _is_control(element: Any) -> bool:
    rules = element.HasField("bidi_component") and element.bidi_component.component_name.endswith("lab_ruler")
    return bool(rules or element.HasField("button_group"))


async def _timed(watching: asyncio.Task[bool], started: float) -> float:
    if not await watching:
        raise TimeoutError("a student had not seen the answer within 60 s")
    return time.perf_counter() - started


def run(count: int) -> dict[str, Any]:
    os.environ |= {"QUANT_CLASS": "reference", "QUANT_TEACHER": WORD}
    with tempfile.TemporaryDirectory() as home, serving(Path(home)) as url:
        time.sleep(25)  # the server warms up and finds the course's scenes
        found = asyncio.run(lesson(url, count))
    every = sorted(one for times in found.values() for one in times)
    return {
        "machine": machine.describe(),
        "students": count,
        "reveals": {
            number: {"median_s": statistics.median(times), "last_s": max(times)} for number, times in found.items()
        },
        "median_s": statistics.median(every),
        "p95_s": every[int(0.95 * len(every))],
        "last_s": every[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "course_class.json")
    args = parser.parse_args()
    report = run(args.students)
    write(args.out, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
