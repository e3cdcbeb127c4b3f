"""A child answers, or is ended with the limit that it met; whatever it does, this process goes on."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantcore.model import bounded_process
from quantcore.model.bounded_process import BoundedProcess, Ended, Limits, Reported

PROGRAM = """
import os, sys, time

class Panic(BaseException): pass

def echo(question, content):
    print("chatting on stdout")
    return {"said": question["say"]}, content[::-1]

def fail(question, content):
    raise ValueError("no " * 500)

def panic(question, content):
    raise Panic("at the disco")

def spin(question, content):
    while True: pass

def sleep(question, content):
    time.sleep(600)

def hold(question, content):
    kept = bytearray(question["bytes"])
    return {"held": len(kept)}, b""

def die(question, content):
    print(question["words"], file=sys.stderr, flush=True)
    os._exit(3)

def mutter(question, content):
    print(question["words"], file=sys.stderr, flush=True)
    return {}, b""

def write(question, content):
    with open(question["file"], "wb") as file: file.write(content)
    return {}, b""

ANSWERS = {name: one for name, one in globals().items() if callable(one)}
"""
LIMITS = Limits(seconds=1, memory=200_000_000, answer=1_000_000)


@pytest.fixture(autouse=True)
def _as_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not forked, as other tests' are."""
    monkeypatch.setattr(bounded_process, "subprocess", subprocess)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[BoundedProcess]:
    (tmp_path / "program.py").write_text(PROGRAM)
    made = BoundedProcess(tmp_path / "program.py")
    yield made
    made.close()


def ask(child: BoundedProcess, do: str, content: bytes = b"", **more: Any) -> tuple[dict[str, Any], bytes]:
    return child.ask({"do": do, **more}, content, LIMITS)


def test_it_answers_with_text_and_bytes(child: BoundedProcess) -> None:
    assert ask(child, "echo", b"abc\x00", say="\ud800 é") == ({"said": "\ud800 é"}, b"\x00cba")
    assert ask(child, "echo", b"x" * 900_000, say=1)[1] == b"x" * 900_000
    assert child.alive


def test_an_exception_is_reported_and_the_child_lives_on(child: BoundedProcess) -> None:
    with pytest.raises(Reported, match=r"^ValueError: (no )+no?$") as caught:
        ask(child, "fail")
    assert len(caught.value.text) <= bounded_process.LONGEST_WORDS
    with pytest.raises(Reported, match="^Panic: at the disco$"):  # a BaseException
        ask(child, "panic")
    assert ask(child, "echo", say=1)[0] == {"said": 1}


@pytest.mark.parametrize(
    ("do", "more", "limit"),
    [
        ("spin", {}, "^it needed more than 1 s of processor time and was stopped$"),
        ("hold", {"bytes": 10**9}, "^it needed more than 200 MB of memory and was stopped$"),
        ("die", {"words": "memory allocation of 8 bytes failed"}, "^it needed more than 200 MB of memory"),
        ("die", {"words": "boom"}, r"^it broke down \(boom\)$"),
    ],
)
def test_a_limit_or_a_death_is_told_and_the_child_is_gone(
    child: BoundedProcess, do: str, more: dict[str, Any], limit: str
) -> None:
    ask(child, "mutter", words="MemoryError, but of an earlier question")
    with pytest.raises(Ended, match=limit):
        ask(child, do, **more)
    assert not child.alive
    with pytest.raises(Ended, match="it was stopped before"):
        ask(child, "echo", say=1)


def test_memory_counts_from_what_is_held_already(child: BoundedProcess) -> None:
    for _ in range(3):
        assert ask(child, "hold", bytes=150_000_000)[0] == {"held": 150_000_000}


def test_what_waits_is_ended_by_the_clock(child: BoundedProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(child, "echo", say=1)
    monkeypatch.setattr(bounded_process, "BUSY", 0)
    monkeypatch.setattr(bounded_process, "BUSY_S", 1.0)
    with pytest.raises(Ended, match="^it needed more than 1 s and was stopped$"):
        ask(child, "sleep")
    assert not child.alive


def test_an_answer_has_a_length(child: BoundedProcess) -> None:
    with pytest.raises(Reported, match="it gives 2 MB, the limit is 1 MB"):
        ask(child, "echo", b"x" * 2_000_000, say=1)
    assert child.alive


def test_a_failed_write_tells_its_number(child: BoundedProcess, tmp_path: Path) -> None:
    with pytest.raises(Reported) as caught:
        ask(child, "write", file=str(tmp_path / "missing" / "file"))
    assert caught.value.errno == 2


def test_after_ctrl_c_no_answer_goes_to_another_question(child: BoundedProcess) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    ask(child, "echo", say=1)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(child, "sleep")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not child.alive


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    made = BoundedProcess(tmp_path / "program.py")
    pid = made._process.pid
    made._to.close()  # what a parent that is killed leaves behind
    assert made._process.wait(30) == 0
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_asking_is_quick(child: BoundedProcess) -> None:
    ask(child, "echo", say=1)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        ask(child, "echo", say=1)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05  # some 0.2 ms on a quiet machine
