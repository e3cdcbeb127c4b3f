"""Classes under way: which scene a class looks at, whether its answer is shown, and what was guessed, without names.

    rooms = Rooms()
    room = rooms.open("reference", "cpu")     a code to join by, and a key that only the presenter's page has
    room.guess("a visitor", "12")             kept until the scene changes; a later guess replaces the earlier
    room.show(); room.go(3); room.clear()     the presenter's moves; each makes a new `version`, which followers see

All of it lives in memory and is bounded: MOST_ROOMS classes, MOST_GUESSES guesses each, a guess a short text that its
scene could read. A visitor is a random text of the browser's, told apart and never shown; it goes with the scene.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from ui.course.guess import LONGEST

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # nothing that reads like another
CODE = 6
MOST_ROOMS, MOST_GUESSES = 8, 300
HERE_S = 10.0  # a follower who has not asked for so long has left


@dataclass
class Room:
    """One class. `version` counts the presenter's moves."""

    code: str
    key: str
    model: str
    device: str
    scene: int = 0
    shown: bool = False
    version: int = 0
    _guesses: dict[str, str] = field(default_factory=dict, repr=False)
    _seen: dict[str, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def is_presenters(self, key: str | None) -> bool:
        return key is not None and secrets.compare_digest(key.encode(), self.key.encode())

    def here(self, visitor: str) -> None:
        """A follower looks."""
        with self._lock:
            if visitor in self._seen or len(self._seen) < MOST_GUESSES:
                self._seen[visitor] = time.monotonic()
            else:
                self._forget_gone()

    def guess(self, visitor: str, text: str) -> bool:
        """Keep a visitor's guess; False where the answer is shown already, or the class is full."""
        with self._lock:
            full = visitor not in self._guesses and len(self._guesses) >= MOST_GUESSES
            if self.shown or full or len(text) > LONGEST:
                return False
            self._guesses[visitor] = text
            return True

    def guess_of(self, visitor: str) -> str | None:
        return self._guesses.get(visitor)

    @property
    def guesses(self) -> list[str]:
        """All guesses, in an order that tells nothing of when they came."""
        with self._lock:
            return sorted(self._guesses.values())

    @property
    def followers(self) -> int:
        """How many looked within the last seconds."""
        with self._lock:
            self._forget_gone()
            return len(self._seen)

    def show(self) -> None:
        with self._lock:
            self.shown = True
            self.version += 1

    def go(self, scene: int) -> None:
        """Another scene: the guesses go."""
        with self._lock:
            self.scene, self.shown = scene, False
            self._guesses.clear()
            self.version += 1

    def use(self, model: str, device: str) -> None:
        """The same scene on another model."""
        self.model, self.device = model, device
        self.clear()

    def clear(self) -> None:
        """The same scene once more."""
        self.go(self.scene)

    def _forget_gone(self) -> None:
        now = time.monotonic()
        for visitor in [one for one, at in self._seen.items() if now - at > HERE_S]:
            del self._seen[visitor]


class Rooms:
    """The classes of one server, by code; the one opened longest ago goes when there are too many."""

    def __init__(self) -> None:
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, model: str, device: str) -> Room:
        room = Room("".join(secrets.choice(ALPHABET) for _ in range(CODE)), secrets.token_urlsafe(18), model, device)
        with self._lock:
            while len(self._rooms) >= MOST_ROOMS:
                _, gone = self._rooms.popitem(last=False)
                gone.version = -1
            self._rooms[room.code] = room
        return room

    def get(self, code: str | None) -> Room | None:
        return self._rooms.get((code or "")[:CODE].upper())

    def close(self, room: Room) -> None:
        with self._lock:
            self._rooms.pop(room.code, None)
            room.version = -1

    def all(self) -> list[Room]:
        with self._lock:
            return list(self._rooms.values())
