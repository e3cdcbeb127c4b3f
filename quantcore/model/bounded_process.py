"""A child process whose every answer is bounded in time and memory: for data that makes a library run wild.

    child = BoundedProcess(Path("program.py"))
    answer, content = child.ask({"do": "encode"}, b"some text", Limits(seconds=5, memory=600_000_000))

The program is a Python file with `ANSWERS`: name -> function of a question and bytes, which returns an answer and
bytes. The child is this very file, run with the program's path: it imports nothing of ours, so it starts in a moment.
Before each question it sets the limits that come with it (RLIMIT_CPU, RLIMIT_AS), and the system ends it where it goes
beyond; what takes much longer by the clock than by the processor is ended from here. A child that was ended is gone:
ask a new one. Messages are JSON and bytes, nothing that could run when it is read.

Limit: macOS holds nobody to RLIMIT_AS, and Windows knows neither limit: there the clock alone counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

FRAME = struct.Struct("<QQ")  # bytes of a message's JSON, and of the content behind it
BUSY = 6  # seconds by the clock for one of the processor: the machine works for others too
BUSY_S = 60.0  # and so many besides, however short the answer
CLOSE_S = 10.0
LONGEST_WRITE = 200_000_000  # bytes of a file that the child writes
TAIL_BYTES = 4000
LONGEST_WORDS = 200  # characters of an error's text that are passed on
OUT_OF_MEMORY = re.compile(r"memory allocation of|bad_alloc|MemoryError|out of memory|cannot allocate", re.IGNORECASE)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # it reads what lies on this machine
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # one thread, whose time is counted
    "RUST_BACKTRACE": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Limits:
    """Of one answer: processor seconds, bytes of memory beyond what the child holds already, bytes of the answer."""

    seconds: float
    memory: int
    answer: int = 256_000_000


class Ended(Exception):
    """There is no answer and the child is gone. The text is half a sentence: "it needed more than ..."."""


class Reported(Exception):
    """An exception inside of the child, which lives on: its kind, its text, and `errno` of a failed read or write."""

    def __init__(self, kind: str, text: str, errno: int | None = None) -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind, self.text, self.errno = kind, text, errno


class BoundedProcess:
    """One child, for one question at a time."""

    def __init__(self, program: Path, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile()  # what it writes to stderr, such as a Rust library's last words
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._late, self._said = False, 0

    @property
    def alive(self) -> bool:
        return not self._to.closed and self._process.poll() is None

    def ask(self, question: dict[str, Any], content: bytes, limits: Limits) -> tuple[dict[str, Any], bytes]:
        """The answer and the bytes behind it.

        Raises: Ended where a limit was met or the child died, Reported for an exception inside of it."""
        if self._errors.closed:
            raise Ended("it was stopped before")
        self._said = os.fstat(self._errors.fileno()).st_size  # the words of earlier questions
        clock = threading.Timer(BUSY_S + BUSY * limits.seconds, self._end_late)
        clock.start()
        try:
            write_frame(self._to, {**question, "limits": asdict(limits)}, content)
            read = read_frame(self._from, 2 * limits.answer)
        except (OSError, ValueError):
            read = None
        except BaseException:  # Ctrl-C: its answer would be taken for that of the next question
            self.close()
            raise
        finally:
            clock.cancel()
        if read is None:
            raise Ended(self._why_it_ended(limits))
        answer, behind = read
        if "error" not in answer:
            return answer, behind
        if answer["error"] == MemoryError.__name__:
            self.close()
            raise Ended(_too_much(limits))
        raise Reported(answer["error"], answer["text"], answer["errno"])

    def close(self) -> None:
        """End the child, whatever it does."""
        self._process.kill()
        self._process.wait()
        for file in (self._to, self._from, self._errors):
            with contextlib.suppress(OSError):
                file.close()

    def _end_late(self) -> None:
        self._late = True
        self._process.kill()

    def _why_it_ended(self, limits: Limits) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        code = self._process.poll()
        self._errors.seek(max(self._said, self._errors.seek(0, os.SEEK_END) - TAIL_BYTES))
        last_words = self._errors.read().decode("utf-8", "replace").strip()
        self.close()
        if self._late:
            return f"it needed more than {BUSY_S + BUSY * limits.seconds:.0f} s and was stopped"
        if os.name == "posix" and code == -signal.SIGXCPU:
            return f"it needed more than {limits.seconds:.0f} s of processor time and was stopped"
        if os.name == "posix" and (code == -signal.SIGKILL or OUT_OF_MEMORY.search(last_words)):
            return _too_much(limits)
        return f"it broke down ({last_words.splitlines()[-1][:LONGEST_WORDS] if last_words else f'exit code {code}'})"


def _too_much(limits: Limits) -> str:
    return f"it needed more than {limits.memory / 1e6:,.0f} MB of memory and was stopped"


def write_frame(file: IO[bytes], message: dict[str, Any], content: bytes) -> None:
    told = json.dumps(message).encode()
    file.write(FRAME.pack(len(told), len(content)) + told)
    file.write(content)
    file.flush()


def read_frame(file: IO[bytes], longest: int) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None at the end. Raises: ValueError for one that is longer, or cut off."""
    if not (head := file.read(FRAME.size)):
        return None
    if len(head) < FRAME.size or sum(sizes := FRAME.unpack(head)) > longest:
        raise ValueError("a message is cut off, or too long")
    told, content = (file.read(size) for size in sizes)
    if (len(told), len(content)) != sizes:
        raise ValueError("a message is cut off")
    return json.loads(told), content


def serve(program: str) -> None:
    """The child: answer questions until there are no more."""
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # a library that chats must not spoil the answers
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        answers = runpy.run_path(program)["ANSWERS"]
        while (asked := read_frame(questions, sys.maxsize)) is not None:
            question, content = asked
            limits = Limits(**question["limits"])
            try:
                hold_to(limits)
                answer, behind = answers[question["do"]](question, content)
                length = len(json.dumps(answer)) + len(behind)
                if length > limits.answer:
                    raise ValueError(f"it gives {length / 1e6:,.0f} MB, the limit is {limits.answer / 1e6:,.0f} MB")
            except BaseException as error:  # a panic of a Rust library is no Exception
                words = " ".join(str(error)[:2000].split())[:LONGEST_WORDS]
                number = error.errno if isinstance(error, OSError) else None
                answer, behind = {"error": type(error).__name__, "text": words, "errno": number}, b""
            del asked, question, content
            write_frame(replies, answer, behind)


def hold_to(limits: Limits) -> None:
    """Let the system end this process where it goes beyond the limits, counted from now."""
    if os.name != "posix":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + limits.seconds))
    _set(resource.RLIMIT_FSIZE, LONGEST_WRITE)
    _set(resource.RLIMIT_CORE, 0)
    held = Path("/proc/self/statm")
    if held.exists():
        _set(resource.RLIMIT_AS, int(held.read_text().split()[0]) * resource.getpagesize() + limits.memory)


def _set(what: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    serve(sys.argv[1])
