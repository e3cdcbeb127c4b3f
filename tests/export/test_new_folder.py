"""A model's folder comes into being whole, whoever else writes beside it, and whatever was killed before."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantcore.export.new_folder import all_or_nothing, require_place

WRITER = """
import sys
from pathlib import Path
from quantcore.export.new_folder import all_or_nothing
with all_or_nothing(Path(sys.argv[1])) as folder:
    (folder / "config.json").write_text("{}")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def writer(target: Path) -> "subprocess.Popen[str]":
    """Another process that has begun to write there."""
    words = [sys.executable, "-c", WRITER, str(target)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def end(process: "subprocess.Popen[str]", how: int | None = None) -> None:
    if how is not None:
        process.send_signal(how)
    process.communicate("\n")


def write(target: Path, text: str = "{}") -> None:
    with all_or_nothing(target) as folder:
        (folder / "config.json").write_text(text)


def test_what_a_killed_export_left_is_swept_by_the_next_one_to_that_name(tmp_path: Path) -> None:
    end(writer(tmp_path / "a"), signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.partial-")
    write(tmp_path / "b")  # another name's is not ours to sweep
    assert left.exists()
    write(tmp_path / "a")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b"]


def test_what_a_living_export_writes_is_left_alone(tmp_path: Path) -> None:
    process = writer(tmp_path / "a")
    try:
        with pytest.raises(ValueError, match="a' is being written by another export; wait for it"):
            require_place(tmp_path / "a", "reference", force=True)
        write(tmp_path / "a", "mine")  # who asked before the other began
    finally:
        end(process)
    assert process.returncode != 0  # the other does not take the name from it
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "config.json").read_text() == "mine"


def write_and_lose(target: Path, first: Path) -> None:
    with all_or_nothing(target):
        assert first.exists()
        target.mkdir()


def test_two_exports_in_one_process_do_not_sweep_each_other(tmp_path: Path) -> None:
    with all_or_nothing(tmp_path / "a") as first:
        (first / "config.json").write_text("first")
        with pytest.raises(ValueError, match="was written by another meanwhile and stays; choose a new name"):
            write_and_lose(tmp_path / "a", first)
        (tmp_path / "a").rmdir()
    assert (tmp_path / "a" / "config.json").read_text() == "first"


def test_a_model_that_stepped_aside_for_a_killed_export_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / ".a.partial-0123abcd-before"
    aside.mkdir()
    (aside / "config.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), all_or_nothing(tmp_path / "a"):
        raise KeyboardInterrupt
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "config.json").read_text() == "old"


def test_one_that_stepped_aside_for_a_whole_successor_is_swept(tmp_path: Path) -> None:
    for name in (".a.partial-0123abcd-before", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    write(tmp_path / "a", "new")
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "config.json").read_text() == "new"


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    """`*` and `[` are letters of a name, not patterns that would sweep another's folder."""
    end(writer(tmp_path / "model-1"), signal.SIGKILL)
    for name in ("model-*", "model-[0-9]"):
        write(tmp_path / name)
    assert len([one for one in tmp_path.iterdir() if one.name.startswith(".model-1.partial-")]) == 1


def test_a_link_among_what_is_swept_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    (tmp_path / ".a.partial-0123abcd").symlink_to(tmp_path / "mine")
    write(tmp_path / "a")
    assert (tmp_path / "mine" / "file").read_text() == "kept"


@pytest.mark.parametrize("tried", ["n" * 240, "n" * 256, "file/x", "/proc/x", "~nobody-here/x", ""])
def test_a_place_where_no_folder_can_be_made_is_told_before_the_work(tmp_path: Path, tried: str) -> None:
    """A name of 240 letters is one that the system takes, but not with what stands beside it for a moment."""
    (tmp_path / "file").write_text("")
    place = tried if tried.startswith(("/", "~")) or not tried else tmp_path / tried
    with pytest.raises(ValueError, match="no folder|cannot be the name of a file") as caught:
        require_place(place, "reference", force=True)
    assert len(str(caught.value)) < 400
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
