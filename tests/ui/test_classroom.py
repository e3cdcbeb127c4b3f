"""Class mode: the teacher's list and nothing beside it, the teacher's word, no path of the server in any sentence."""

from pathlib import Path

import pytest

from ui import classroom as settings
from ui.classroom import (
    Classroom,
    classroom,
    is_loopback,
    is_teachers,
    model_source,
    require_address,
    teachers_word,
    without_paths,
)
from ui.server.announce import words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    return tmp_path / "models" / "mine"


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Classroom:
    monkeypatch.setenv("QUANT_CLASS", f"owner/small@v1,{folder}")
    found = classroom()
    assert found is not None
    return found


def test_without_the_variable_there_is_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    for empty in ("", "  "):
        monkeypatch.setenv("QUANT_CLASS", empty)
        assert classroom() is None
    monkeypatch.delenv("QUANT_CLASS")
    assert classroom() is None
    assert model_source("/any/path") == "/any/path"
    assert without_paths("no /etc/passwd here") == "no /etc/passwd here"


def test_the_list_is_the_teachers_and_the_reference_model(here: Classroom, folder: Path) -> None:
    assert here.models == {"reference": "reference", "owner/small@v1": "owner/small@v1", "mine": str(folder)}
    assert model_source("mine") == str(folder)


def test_all_else_is_refused_alike_whether_it_exists_or_not(here: Classroom, folder: Path, tmp_path: Path) -> None:
    asked = [
        str(folder),
        str(folder.parent),
        str(tmp_path / "nothing"),
        "/etc/passwd",
        "owner/other",
        "owner/small",
        "",
    ]
    refusals = set()
    for one in asked:
        with pytest.raises(ValueError, match="its teacher chose: reference, owner/small@v1, mine") as refused:
            model_source(one)
        refusals.add(str(refused.value))
    assert len(refusals) == 1


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (
            "/no/such/folder",
            "QUANT_CLASS names '/no/such/folder', which is no model: give reference, a folder, or an id",
        ),
        ("a b", "names 'a b', which is no model"),
        ("{folder},{other}", "names two models 'mine', and links could not tell them apart"),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    named: str, sentence: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "others" / "mine"
    other.mkdir(parents=True)
    monkeypatch.setenv("QUANT_CLASS", named.format(folder=folder, other=other))
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        classroom()


def test_no_path_of_the_server_is_in_a_sentence(here: Classroom, folder: Path) -> None:
    said = f"could not load {str(folder)!r}: no file {folder}/config.json; see /var/log/x.log and C:\\Users\\me\\y.txt"
    assert without_paths(said) == (
        "could not load 'mine': no file mine/config.json; see a file of the server and a file of the server"
    )
    for kept in (
        "owner/name",
        "http://a.test/b/c",
        "w:int4/group128,a:int8/token/dynamic",
        "1/2 and 3 / 4",
        "[out, in/g]",
    ):
        assert without_paths(kept) == kept


def test_the_teachers_word(monkeypatch: pytest.MonkeyPatch) -> None:
    teachers_word.cache_clear()
    drawn = teachers_word()
    assert len(drawn) >= 16
    assert is_teachers(drawn)
    assert not is_teachers(drawn[:-1])
    assert not is_teachers("")
    assert not is_teachers("\N{SNOWMAN}")
    teachers_word.cache_clear()
    assert teachers_word() != drawn
    teachers_word.cache_clear()
    monkeypatch.setenv("QUANT_TEACHER", "our own word")
    assert is_teachers("our own word")
    teachers_word.cache_clear()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "unix:///tmp/x"])
def test_this_machine_alone(address: str) -> None:
    assert is_loopback(address)
    require_address(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.7.23", "", None, "lab.test", "localhost.evil.test"])
def test_other_machines_need_a_class(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_loopback(address)
    with pytest.raises(ValueError, match="whoever reaches it could load any model that you can read; say QUANT_CLASS="):
        require_address(address)
    with monkeypatch.context() as patch:
        patch.setenv(settings.OPEN, "1")
        require_address(address)
    monkeypatch.setenv("QUANT_CLASS", "reference")
    require_address(address)


def test_the_log_says_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words("127.0.0.1", 8501) == (
        "Serving this machine alone: any model that this user may read, data sets of the hub, checkpoints without a "
        "limit. For a class: QUANT_CLASS=reference."
    )
    assert "WHOEVER reaches 0.0.0.0, because of QUANT_OPEN" in words("0.0.0.0", 8501)
    monkeypatch.setenv("QUANT_CLASS", "reference")
    said = words("192.168.7.23", 8501)
    assert "Class mode. Models: reference." in said
    assert said.endswith(f"http://192.168.7.23:8501/The_line?teacher={teachers_word()}")
