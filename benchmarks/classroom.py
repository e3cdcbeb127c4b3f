"""A class at work: thirty visitors move sliders while three others' heavy jobs stand in line.

    python -m benchmarks.classroom                         prints p50 and p95 of a move, writes results/classroom.json

A server in class mode; three tabs that ask for duels of six schemes on 16,384 tokens each and follow them, so that one
runs at any time; thirty WebSocket clients, each moving a slider every 5 s. A move's time runs from sending the slider's
value to the message that ends the script: the server's work, without the drawing. The same without jobs beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks import machine
from benchmarks.interaction import measure_sessions
from benchmarks.rows import RESULTS, write
from benchmarks.served import serving
from tests.visits import visit

HEAVY = 3
BITS = (2, 3, 4, 5, 6, 8)
TOKENS = 16384


@contextmanager
def heavy_jobs(url: str, count: int) -> Iterator[None]:
    """`count` visitors, each of whom waits for a duel of its own, until the block ends."""
    done = threading.Event()

    async def follow(number: int) -> None:
        schemes = "\n".join(f"w:int{bits}/group{2 ** (4 + number)},gptq" for bits in BITS)
        async with visit(url, cookie=f"lab_visitor=heavy{number}") as tab:
            await tab.open("Scheme_duel", f"tokens={TOKENS}&duel={quote(schemes)}")
            while not done.is_set():
                await tab.follow(1.0)

    async def all_of_them() -> None:
        await asyncio.gather(*map(follow, range(count)))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()), name="heavy jobs")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run(count: int, seconds: float) -> dict[str, Any]:
    report: dict[str, Any] = {"machine": machine.describe(), "sessions": count, "jobs": HEAVY, "tokens": TOKENS}
    with tempfile.TemporaryDirectory() as home, serving(Path(home), QUANT_CLASS="reference") as url:
        measure_sessions(url, 4, 10.0)  # the first visitors pay for what is kept from then on
        report["alone"] = measure_sessions(url, count, seconds)
        with heavy_jobs(url, HEAVY):
            report["beside_jobs"] = measure_sessions(url, count, seconds)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "classroom.json")
    args = parser.parse_args()
    report = run(args.sessions, args.seconds)
    write(args.out, report)
    for name in ("alone", "beside_jobs"):
        print(f"{name:12s} p50 {report[name]['p50_ms']:.0f} ms, p95 {report[name]['p95_ms']:.0f} ms")


if __name__ == "__main__":
    main()
