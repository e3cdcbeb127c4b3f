"""Compile the GPU kernels before anybody waits for them, and keep them for every later process.

    warm("cuda:0")                          all that the pages and a whole model's GPTQ ask for
    warm("cuda:0", shapes, tell)            for a model with Linears of these shapes; tell(share, what)

A kernel is compiled when it is first launched: seconds each, GPTQ's factorization half a minute. Worker processes do
the works of `warm_works` side by side, each on its own core, while this process goes on serving; what they compile lies
in the folder `kernels` of the lab's home, where Triton finds it. At the end this process does the same works once and
loads what they left, in milliseconds a kernel.

A folder that holds all of it for these versions, this GPU and these kernels' sources says so in a file: then no worker
is started. TRITON_CACHE_DIR, where it is set, is the folder instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from subprocess import PIPE, Popen
from threading import local

import torch

from quantcore.lab.warm_works import COMMON, Shape, Work, run, works
from quantcore.measure.store import home
from quantcore.model.locate import Progress, quiet

FOLDER = "kernels"
MOST_WORKERS = 12


@dataclass(frozen=True)
class Warmed:
    """What warming came to. `compiled`: whether workers had to; `failed`: works that raised, and what."""

    device: str
    folder: str
    works: int
    compiled: bool
    seconds: float
    failed: dict[str, str]


def keep_compiled() -> Path:
    """Where Triton keeps what it compiles: the lab's own folder, unless TRITON_CACHE_DIR names another. To be called
    before the first kernel runs; processes that are started from here follow."""
    return Path(os.environ.setdefault("TRITON_CACHE_DIR", str(home() / FOLDER)))


def warm(device: str, shapes: Iterable[Shape] = COMMON, tell: Progress | None = None) -> Warmed:
    """Compile and load all that Linears of these shapes need on one GPU. A work that fails is reported and holds up no
    other: who needs it will meet its error. Raises: ValueError for a device that compiles nothing."""
    where = torch.device(device)
    if where.type != "cuda":
        raise ValueError(f"there is nothing to compile for {device!r}: kernels are a GPU's; name one, such as cuda:0")
    folder, todo, started = keep_compiled(), works(shapes), time.perf_counter()
    done = folder / f"warm-{_fingerprint(where, todo)}.json"
    compiled, failed = not done.exists(), dict[str, str]()
    if compiled:
        failed = compile_apart(todo, device, tell or quiet)
        if not failed:
            done.write_text(json.dumps([str(work) for work in todo], indent=1), encoding="utf-8")
    for index, work in enumerate(todo):
        if tell:
            tell(index / len(todo), f"loading {work}")
        if (problem := _problem(work, where)) is not None:
            failed[str(work)] = problem
    return Warmed(device, str(folder), len(todo), compiled, time.perf_counter() - started, failed)


def compile_apart(todo: list[Work], device: str, tell: Progress, most: int = MOST_WORKERS) -> dict[str, str]:
    """Every work once, in processes of their own, as many as there are cores; what failed, and why."""
    count = max(1, min(most, len(todo), (os.cpu_count() or 2) - 1))
    failed: dict[str, str] = {}
    mine, workers = local(), list[Popen[str]]()

    def one(work: Work) -> str | None:
        if not hasattr(mine, "worker") or mine.worker.poll() is not None:
            mine.worker = _worker(device)
            workers.append(mine.worker)
        return _ask(mine.worker, work)

    try:
        with ThreadPoolExecutor(count, "compiling") as pool:
            asked = {pool.submit(one, work): work for work in todo}
            for number, future in enumerate(as_completed(asked), 1):
                if (problem := future.result()) is not None:
                    failed[str(asked[future])] = problem
                tell(number / len(todo), f"compiled {asked[future]}")
    finally:
        for worker in workers:
            worker.kill()
            with suppress(BrokenPipeError):
                worker.communicate()
    return failed


def _worker(device: str) -> Popen[str]:
    """A process that does works: one line of JSON in, one line out."""
    command = [sys.executable, "-m", "quantcore.lab.warm", device]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(one for one in (root, os.environ.get("PYTHONPATH")) if one)
    return Popen(command, stdin=PIPE, stdout=PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


def _ask(worker: Popen[str], work: Work) -> str | None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    answer = ""
    with suppress(BrokenPipeError):
        worker.stdin.write(json.dumps([work.kind, work.scheme, work.shape, work.tokens]) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    if not answer:
        return f"its process ended with exit code {worker.wait()}"
    problem: str | None = json.loads(answer)
    return problem


def _serve(device: torch.device) -> None:
    """A worker's life: until nobody asks any more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # a library that chats must not spoil the answers
    for line in sys.stdin:
        kind, scheme, shape, tokens = json.loads(line)
        print(json.dumps(_problem(Work(kind, scheme, tuple(shape), tokens), device)), file=answers, flush=True)


def _problem(work: Work, device: torch.device) -> str | None:
    try:
        run(work, device)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def _fingerprint(device: torch.device, todo: list[Work]) -> str:
    """What compiled kernels depend on: versions, GPU, their sources, and what was asked for."""
    digest = hashlib.sha256()
    facts = [metadata.version(name) for name in ("torch", "triton")]
    for fact in (*facts, torch.cuda.get_device_name(device), *map(str, todo)):
        digest.update(fact.encode())
    for file in sorted(Path(__file__).parents[1].glob("*/kernels/*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    _serve(torch.device(sys.argv[1]))
