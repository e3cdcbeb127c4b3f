"""A class's room: guesses without names, bounded; a key that cannot be guessed."""

import threading

import pytest

from ui.course import rooms as rooms_file
from ui.course.rooms import ALPHABET, CODE, MOST_GUESSES, MOST_ROOMS, Rooms


def test_a_room_is_found_by_its_code_and_presented_by_its_key_alone() -> None:
    rooms = Rooms()
    room = rooms.open("reference", "cpu")
    assert len(room.code) == CODE
    assert set(room.code) <= set(ALPHABET)
    assert rooms.get(room.code.lower()) is room
    assert rooms.get(room.code + "X") is room  # what is too long is cut before it is looked up
    assert rooms.get("") is rooms.get(None) is None
    assert room.is_presenters(room.key)
    assert len(room.key) >= 24  # 18 random bytes
    for key in (None, "", room.code, room.key[:-1], "é"):
        assert not room.is_presenters(key)
    rooms.close(room)
    assert rooms.get(room.code) is None


def test_guesses_are_replaced_counted_and_go_with_the_scene() -> None:
    room = Rooms().open("reference", "cpu")
    assert room.guess("ann", "12")
    assert room.guess("bob", "7")
    assert room.guess("ann", "13")
    assert room.guesses == ["13", "7"]
    assert "ann" not in repr(room)
    version = room.version
    room.show()
    assert not room.guess("ann", "30")  # after the answer nobody guesses
    assert room.guess_of("ann") == "13"
    room.go(4)
    assert room.guesses == []
    assert (room.scene, room.shown, room.version) == (4, False, version + 2)


def test_strangers_cannot_fill_the_memory() -> None:
    rooms = Rooms()
    room = rooms.open("reference", "cpu")
    assert not room.guess("ann", "1" * 10_000)
    taken = [room.guess(f"visitor {i}", "1") for i in range(MOST_GUESSES + 50)]
    assert sum(taken) == len(room.guesses) == MOST_GUESSES
    assert room.guess("visitor 0", "2")  # who is in may still change
    for i in range(3 * MOST_GUESSES):
        room.here(f"visitor {i}")
    assert room.followers <= MOST_GUESSES
    others = [rooms.open("reference", "cpu") for _ in range(MOST_ROOMS + 3)]
    assert len(rooms.all()) == MOST_ROOMS
    assert rooms.get(room.code) is None
    assert room.version == -1  # its followers are told
    assert rooms.get(others[-1].code) is others[-1]


def test_who_has_not_looked_for_a_while_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    room, now = Rooms().open("reference", "cpu"), [100.0]
    monkeypatch.setattr(rooms_file.time, "monotonic", lambda: now[0])
    room.here("ann")
    room.here("bob")
    now[0] += rooms_file.HERE_S / 2
    room.here("bob")
    assert room.followers == 2
    now[0] += rooms_file.HERE_S * 0.75
    assert room.followers == 1


def test_thirty_guess_at_once() -> None:
    room = Rooms().open("reference", "cpu")

    def play(name: int) -> None:
        for value in range(50):
            room.guess(str(name), str(value))
            room.here(str(name))

    threads = [threading.Thread(target=play, args=(name,)) for name in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert room.guesses == ["49"] * 30
