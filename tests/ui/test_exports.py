"""The checkpoints of a class: their room has a limit, the oldest go, and nobody else on the machine reads them."""

import os
from pathlib import Path

import pytest

from ui import exports


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(exports, "EXPORT_BYTES", 1000)
    return tmp_path / "home"


@pytest.fixture
def in_class(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANT_CLASS", "reference")
    return home / "class-exports"


def write(name: str, size: int, used: float | None = None, needed: int | None = None) -> Path:
    """A checkpoint of `size` bytes in two files, one of them in a folder."""
    folder = exports.root() / name
    with exports.room_for(folder, size if needed is None else needed):
        (folder / "inside").mkdir(parents=True)
        (folder / "config.json").write_bytes(b"x" * (size // 2))
        (folder / "inside" / "weights").write_bytes(b"x" * (size - size // 2))
    if used is not None:
        os.utime(folder, (used, used))
    return folder


def names() -> list[str]:
    return [one.folder.name for one in exports.listed()]


def test_the_oldest_make_room(in_class: Path) -> None:
    for number, name in enumerate("abc"):
        write(name, 300, used=1000.0 + number)
    assert names() == ["a", "b", "c"]
    write("d", 500)
    assert names() == ["c", "d"]
    assert sum(one.bytes for one in exports.listed()) == 800


def test_what_somebody_looks_at_is_not_the_oldest(in_class: Path) -> None:
    for number, name in enumerate("abc"):
        write(name, 300, used=1000.0 + number)
    exports.look(exports.root() / "a")
    exports.look(exports.root() / "none")
    write("d", 300)
    assert names() == ["c", "a", "d"]


def test_a_size_that_was_guessed_too_small_is_counted_afterwards(in_class: Path) -> None:
    write("a", 600, used=1000.0)
    write("b", 700, needed=100)
    assert names() == ["b"]


def test_what_is_larger_than_all_room_is_refused_and_nothing_goes(in_class: Path) -> None:
    write("a", 600)
    with pytest.raises(ValueError, match=r"needs about 0\.0 GB and this server keeps 1e-06 GB in all; take a smaller"):
        write("b", 1001)
    assert names() == ["a"]


def test_a_half_written_one_is_not_touched_until_it_is_nobodys(in_class: Path) -> None:
    write("a", 300)
    for name, used in ((".new.partial-1", None), (".old.partial-2", 1000.0)):
        (in_class / name).mkdir()
        (in_class / name / "weights").write_bytes(b"x" * 300)
        if used is not None:
            os.utime(in_class / name, (used, used))
    write("b", 600)
    assert names() == ["a", "b"]
    assert sorted(path.name for path in in_class.iterdir()) == [".new.partial-1", "a", "b"]


def test_a_users_own_server_keeps_all_and_a_class_never_touches_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(name, 900)
    assert sorted(names()) == ["a", "b", "c"]
    monkeypatch.setenv("QUANT_CLASS", "reference")
    write("d", 900)
    exports.delete_all()
    assert names() == []
    assert sorted(path.name for path in (home / "exports").iterdir()) == ["a", "b", "c"]


def test_others_on_the_machine_read_nothing(in_class: Path) -> None:
    before = os.umask(0)  # the loosest that a user may have
    try:
        folder = write("a", 300)
    finally:
        os.umask(before)
    rights = {path: path.stat().st_mode & 0o777 for path in [in_class.parent, in_class, folder, *folder.rglob("*")]}
    assert {path.is_dir(): mode for path, mode in rights.items()} == {True: 0o700, False: 0o600}
    assert len(set(rights.values())) == 2


def test_a_folder_that_cannot_be_made_is_a_sentence(in_class: Path) -> None:
    in_class.parent.mkdir()
    in_class.write_bytes(b"a file")
    with pytest.raises(ValueError, match="set QUANT_HOME to a folder of yours"):
        write("a", 10)
