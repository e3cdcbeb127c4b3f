"""Answers that are remembered: each is computed once, however many threads ask for it at a time; the oldest ones go.

    @remembered(16, "Reading the text ...")
    def stats(lab: Bench, reading: str) -> dict[str, LayerStats]: ...

Questions are text and numbers; answers are shared by all who ask, and nobody changes them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, wraps
from inspect import Signature, signature
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from quantcore.matmul.size import quantized_linears
from quantcore.text.reading import Reading

P = ParamSpec("P")
T = TypeVar("T")
MOST_BYTES = 2**30
GPU_SHARE = 8  # of a GPU's memory an eighth
Key = tuple[Hashable, ...]


class Memo:
    """The latest answers: of each question so many, and of all together at most `most_bytes` of tensors, but for the
    newest answer, which is kept however large it is."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._answers: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._under_way: set[Key] = set()
        self._changed = threading.Condition()
        self._most_bytes = most_bytes

    def ask(self, key: Key, most: int, compute: Callable[[], T]) -> T:
        """The answer to `key`, whose first part is the question's name; of that question `most` answers are kept."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._under_way)
            if key in self._answers:
                self._answers.move_to_end(key)
                return cast(T, self._answers[key][0])
            self._under_way.add(key)
        try:
            answer = compute()
            with self._changed:
                self._keep(key, answer, most)
            return answer
        finally:
            with self._changed:
                self._under_way.discard(key)
                self._changed.notify_all()

    def forget(self, key: Key) -> None:
        with self._changed:
            self._answers.pop(key, None)

    def clear(self) -> None:
        """Forget every answer."""
        with self._changed:
            self._answers.clear()

    @property
    def bytes(self) -> int:
        """What all answers hold together."""
        with self._changed:
            return sum(size for _, size in self._answers.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._answers

    def __len__(self) -> int:
        return len(self._answers)

    def _keep(self, key: Key, answer: Any, most: int) -> None:
        self._answers[key] = answer, tensor_bytes(answer)
        alike = [one for one in self._answers if one[0] == key[0]]
        for one in alike[: max(0, len(alike) - most)]:
            del self._answers[one]
        while len(self._answers) > 1 and self.bytes > self._most_bytes:
            self._answers.popitem(last=False)


def room_on(device: str) -> int:
    """How many bytes of answers are kept of a model on this device: a Hessian of 14336 columns has 0.8 GB."""
    if torch.device(device).type != "cuda":
        return MOST_BYTES
    return max(MOST_BYTES, torch.cuda.get_device_properties(device).total_memory // GPU_SHARE)


def tensor_bytes(answer: Any) -> int:
    """Bytes of the tensors in an answer: alone, in containers, in dataclasses. Of a model those of quantized layers: a
    quantized copy shares the others with the float one."""
    if isinstance(answer, Tensor):
        return answer.nbytes
    if isinstance(answer, nn.Module):
        return sum(one.nbytes for layer in quantized_linears(answer).values() for one in layer.buffers())
    if isinstance(answer, Mapping):
        return sum(map(tensor_bytes, answer.values()))
    if isinstance(answer, list | tuple):
        return sum(map(tensor_bytes, answer))
    if is_dataclass(answer):
        return sum(tensor_bytes(getattr(answer, one.name)) for one in fields(answer))
    return 0


class Remembers(Protocol):
    """Who keeps answers: a `Bench`."""

    def remember(self, key: Key, most: int, compute: Callable[[], T], words: str | None) -> T: ...


L = TypeVar("L", bound=Remembers)


def remembered(
    most: int, words: str | None = None
) -> Callable[[Callable[Concatenate[L, P], T]], Callable[Concatenate[L, P], T]]:
    """A question to a lab whose last `most` answers are kept; `words` say what is done while one is found."""

    def decorate(question: Callable[Concatenate[L, P], T]) -> Callable[Concatenate[L, P], T]:
        @wraps(question)
        def asked(lab: L, /, *args: P.args, **more: P.kwargs) -> T:
            key = key_of(question, *args, **more)
            return lab.remember(key, most, lambda: question(lab, *args, **more), words)

        return asked

    return decorate


def key_of(question: Callable[..., Any], *args: Any, **more: Any) -> Key:
    """A question's name and all its arguments but the lab, the unspoken ones too."""
    bound = _signature(question).bind(None, *args, **more)
    bound.apply_defaults()
    return (question.__name__, *(_hashable(one) for one in list(bound.arguments.values())[1:]))


@lru_cache(maxsize=256)
def _signature(question: Callable[..., Any]) -> Signature:
    return signature(question)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Reading):
        return str(value)
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else cast(Hashable, value)
