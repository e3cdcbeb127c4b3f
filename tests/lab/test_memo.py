"""What a lab remembers: each answer computed once, the oldest ones gone first, errors not remembered."""

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from quantcore.lab.memo import Memo, key_of, room_on, tensor_bytes
from quantcore.text.reading import STUDY


@dataclass(frozen=True, eq=False)
class Report:
    name: str
    values: Tensor
    parts: tuple[Tensor, ...] = ()


def kilobytes(count: int) -> Tensor:
    return torch.zeros(count * 256)


def test_many_who_ask_at_once_wait_for_one_answer() -> None:
    memo, calls, answers = Memo(), [], []

    def slow() -> object:
        calls.append(threading.get_ident())
        time.sleep(0.2)
        return object()

    threads = [threading.Thread(target=lambda: answers.append(memo.ask(("q", 1), 4, slow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 1
    assert len(answers) == 8
    assert len(set(map(id, answers))) == 1


def test_another_question_does_not_wait() -> None:
    memo, gate = Memo(), threading.Event()
    waiting = threading.Thread(target=lambda: memo.ask(("slow",), 1, lambda: gate.wait(60)))
    waiting.start()
    assert memo.ask(("quick",), 1, lambda: 2) == 2
    gate.set()
    waiting.join(60)


def test_a_question_keeps_its_latest_answers() -> None:
    memo = Memo()
    for number in (1, 2, 1, 3):  # 1 is asked for again, so 2 is the oldest when 3 comes
        memo.ask(("q", number), 2, lambda number=number: number)
    memo.ask(("other", 1), 2, lambda: 0)
    assert memo.ask(("q", 1), 2, lambda: "new") == 1
    assert memo.ask(("q", 3), 2, lambda: "new") == 3
    assert memo.ask(("q", 2), 2, lambda: "new") == "new"
    assert len(memo) == 3


def test_all_answers_together_have_a_limit_of_bytes() -> None:
    memo = Memo(most_bytes=10 * 1024)
    for number in range(3):
        memo.ask(("q", number), 9, lambda: kilobytes(4))
    assert len(memo) == 2
    memo.ask(("large",), 9, lambda: kilobytes(50))
    assert len(memo) == 1  # the newest is kept however large
    assert memo.ask(("large",), 9, lambda: None) is not None


def test_bytes_are_those_of_the_tensors_inside() -> None:
    one = kilobytes(1)
    assert tensor_bytes(Report("a", one, (one, one))) == 3 * 1024
    assert tensor_bytes({"a": [one, (one, "text")], "b": 7}) == 2 * 1024
    assert tensor_bytes(torch.nn.Linear(8, 8)) == 0


def test_an_error_is_not_remembered_and_a_forgotten_answer_is_found_anew() -> None:
    memo = Memo()

    def refuse() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        memo.ask(("q",), 1, refuse)
    assert memo.ask(("q",), 1, lambda: 1) == 1
    memo.forget(("q",))
    memo.forget(("never",))
    assert memo.ask(("q",), 1, lambda: 2) == 2


def test_the_same_question_in_other_words_is_the_same() -> None:
    def question(lab: object, schemes: tuple[str, ...], reading: str = str(STUDY), bits: int = 4) -> None: ...

    asked = key_of(question, ("a", "b"), str(STUDY), 4)
    assert asked == ("question", ("a", "b"), "evaluation/encyclopedia|1x512", 4)
    assert key_of(question, ["a", "b"]) == asked
    assert key_of(question, reading=STUDY, schemes=["a", "b"]) == asked
    assert key_of(question, ["a", "b"], bits=3) != asked


def test_a_gpu_keeps_a_share_of_its_memory_and_never_less_than_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(total: int) -> int:
        properties = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        return room_on("cuda:0")

    assert (of(80 * 2**30), of(4 * 2**30), room_on("cpu")) == (10 * 2**30, 2**30, 2**30)
