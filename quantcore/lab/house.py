"""Around a lab: the server that holds it for others, the visitor who asks, the devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from quantcore.lab.memo import Memo
from quantcore.measure.store import Store, home, private_folder
from quantcore.model.loading import devices
from quantcore.text.reading import Texts

VISIT_BYTES = 2**27  # of tensors that are remembered for one visitor


class Visit:
    """What a visitor brings, and what is made of it: it goes when the visit ends, and into no file."""

    def __init__(self) -> None:
        self.texts, self.memo, self.store = Texts(), Memo(VISIT_BYTES), Store.in_memory()

    def end(self) -> None:
        """Let go of all of it, whoever still holds this object."""
        self.texts.clear()
        self.memo.clear()
        self.store.clear()


@contextmanager
def _room(folder: Path, size_bytes: int) -> Iterator[None]:
    """Make the folder's own folder, for this user alone. Raises: ValueError."""
    try:
        private_folder(folder.parent)
    except OSError as error:
        raise ValueError(
            f"cannot make {str(folder.parent)!r} ({error.strerror}); set QUANT_HOME to a folder of yours"
        ) from error
    yield


@dataclass(frozen=True)
class House:
    """What a server that holds labs for others does around them.

    doing        a context that is entered, with words, while something takes long
    step         called with a share and words, at least once a batch, while a model reads
    after_load   called once, after the model was loaded
    exports      the folder of the kept checkpoints
    room         a context in which one of about so many bytes is written to its folder"""

    doing: Callable[[str], AbstractContextManager[object]] = nullcontext
    step: Callable[[float, str], None] = lambda *_: None
    after_load: Callable[[], None] = lambda: None
    exports: Callable[[], Path] = lambda: home() / "exports"
    room: Callable[[Path, int], AbstractContextManager[object]] = _room


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    return devices()[:2][-1]


def require_device(device: str) -> None:
    known = devices()
    if device not in (*known, *(["cuda"] if len(known) > 1 else [])):
        raise ValueError(f"device {device!r} is not on this machine; it has {', '.join(known)}")
