"""Tells how many tensors transformers has read, while it reads them; in this thread only, and without a bar of its own.

with Watch(progress) as watch: ...       watch.ended is what `progress` raised to end the load, else None
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from quantcore.model.locate import Progress

_HERE = threading.local()  # .watch: this thread's


class Watch:
    """Takes the place of transformers' progress bars. progress: told the share that is done, and what is being done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.ended: Exception | None = None

    def __enter__(self) -> Watch:
        from transformers.utils import logging

        logging.set_tqdm_hook(_bar)
        self._before = getattr(_HERE, "watch", None)
        _HERE.watch = self
        return self

    def __exit__(self, *_: object) -> None:
        _HERE.watch = self._before

    def told(self, values: list[Any]) -> Iterator[Any]:
        for done, value in enumerate(values, 1):
            yield value
            try:
                self.progress(done / len(values), f"reading tensor {done} of {len(values)}")
            except Exception as error:
                self.ended = error
                raise


def _bar(factory: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    """What transformers gets where it asks for a bar: the watch of the thread, where it has one."""
    watch: Watch | None = getattr(_HERE, "watch", None)
    values = args[0] if args else more.get("iterable")
    return factory(*args, **more) if values is None or watch is None else watch.told(list(values))
