"""Class mode: the teacher's list and nothing beside it, the teacher's word, no path of the server in any sentence."""

from pathlib import Path

import pytest
from streamlit import config

from tests.apptest_helpers import errors, page
from ui import classroom as settings
from ui import visitors
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


def model_at(folder: Path) -> Path:
    """A folder that looks like a model's; nothing in it is read."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_at(tmp_path / "models" / "mine")


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
            "QUANT_CLASS names '/no/such/folder', which is no model: give reference, a folder, a GGUF file, or an id",
        ),
        ("a b", "names 'a b', which is no model"),
        ("{folder},{other}", "names two models 'mine', and links could not tell them apart; rename one"),
        ("{tmp}/empty", "names a model that cannot be: .* is a folder without config.json, so it is no model; name a"),
        ("~nobody-of-that-name/x", "names a model that cannot be: '~nobody.* cannot be the name of a file"),
        ("a" * 300, "names a model that cannot be: 'aaa.* cannot be the name of a file .File name too long.; give an"),
        ("/dev/null", "names '/dev/null', which is no model|names a model that cannot be"),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    named: str, sentence: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    other = model_at(tmp_path / "others" / "mine")
    monkeypatch.setenv("QUANT_CLASS", named.format(folder=folder, other=other, tmp=tmp_path))
    with pytest.raises(ValueError, match=sentence) as no:
        require_address("127.0.0.1")
    assert len(str(no.value)) < 400


@pytest.mark.parametrize("word", ["1", "teacher", "  short  "])
def test_a_word_that_a_class_would_guess_is_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers_word.cache_clear()
    monkeypatch.setenv("QUANT_CLASS", "reference")
    monkeypatch.setenv("QUANT_TEACHER", word)
    with pytest.raises(ValueError, match="QUANT_TEACHER has . characters and opens the teacher's page; give 8 or more"):
        require_address("127.0.0.1")
    teachers_word.cache_clear()


def test_the_teachers_link_holds_any_word(monkeypatch: pytest.MonkeyPatch) -> None:
    teachers_word.cache_clear()
    monkeypatch.setenv("QUANT_CLASS", "reference")
    monkeypatch.setenv("QUANT_TEACHER", "a&b=c#d/ \N{SNOWMAN}\n")
    assert words("192.168.7.23", 8501).endswith("?teacher=a%26b%3Dc%23d%2F%20%E2%98%83%0A")
    teachers_word.cache_clear()


@pytest.mark.parametrize(("said", "opens"), [("1", True), (" 1 ", True), ("0", False), ("", False)])
def test_the_server_is_open_to_all_only_where_the_variable_says_so(
    said: str, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANT_OPEN", said)
    assert settings.is_open_to_all() == opens


@pytest.mark.parametrize("said", ["no", "true", "2", "reference"])
def test_a_word_that_is_neither_yes_nor_no_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_OPEN", said)
    with pytest.raises(ValueError, match=f"QUANT_OPEN is '{said}'; say 1 if you trust all who reach this server"):
        require_address("127.0.0.1")


@pytest.mark.parametrize("started", ["app.py", "pages/1_Number_formats.py"])
def test_pages_without_their_server_are_not_shown(started: str, monkeypatch: pytest.MonkeyPatch) -> None:
    visitors.require_server()
    monkeypatch.setattr(config, "_main_script_path", "/lab/serve.py")
    visitors.require_server()
    monkeypatch.setattr(config, "_main_script_path", f"/lab/{started}")
    with pytest.raises(ValueError, match=r"was started without its server; start it with: streamlit run serve.py"):
        visitors.require_server()
    at = page("1_Number_formats").run()
    assert [error.replace("\\", "") for error in errors(at)] == [
        f"{Path(started).name} was started without its server; start it with: streamlit run serve.py"
    ]
    assert not at.sidebar


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
