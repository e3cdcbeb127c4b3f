"""One model is made at a time: transformers changes its own classes meanwhile, for all threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantcore.model import making as room
from quantcore.model.integrity import examine
from quantcore.model.loading import load_model
from quantcore.model.making import making


def test_two_visitors_load_one_behind_the_other(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once each would put back what the other had changed, and no weights would be tied from then on."""
    from transformers import PreTrainedModel, initialization

    inside: list[int] = []
    changed, ties = initialization.no_tie_weights, PreTrainedModel.tie_weights

    @contextmanager
    def watched() -> Iterator[None]:
        with changed():
            inside.append(PreTrainedModel.tie_weights is not ties)
            time.sleep(0.05)
            yield

    monkeypatch.setattr(initialization, "no_tie_weights", watched)
    together = threading.Barrier(2)
    stayed = []

    def load() -> None:
        together.wait()
        load_model(str(tiny_model_dir), "cpu")
        stayed.append(PreTrainedModel.tie_weights is ties)

    threads = [threading.Thread(target=load, daemon=True) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert inside == [True, True]
    assert PreTrainedModel.tie_weights is ties
    assert stayed[-1]


def test_whoever_waits_is_told_and_may_give_up(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_S", 0.01)
    begun, enough = threading.Event(), threading.Event()

    def other() -> None:
        with making():
            begun.set()
            enough.wait()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    begun.wait()
    told = []

    def give_up() -> None:
        told.append("waits")
        raise InterruptedError

    with pytest.raises(InterruptedError), making(give_up):
        pass
    examined: list[object] = []
    second = threading.Thread(target=lambda: examined.append(examine("tiny", tiny_model_dir)), daemon=True)
    second.start()
    second.join(0.3)
    assert examined == []
    enough.set()
    thread.join()
    second.join()
    assert len(examined) == 1
    assert told == ["waits"]
