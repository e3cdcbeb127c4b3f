"""The pages of a class: the teacher's models and nothing that tells of others; the teacher's own page."""

import shutil
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.measure.store import home
from tests.apptest_helpers import errors, new_server, page, settle
from ui import kept, visitors
from ui.classroom import classroom, teachers_word
from ui.job import Asker, Teller

PAGES = ["", *sorted(path.stem for path in (Path(__file__).parents[2] / "pages").glob("*.py"))]
SCHEME = "w:int4/group16"


@pytest.fixture(autouse=True)
def in_class(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_CLASS", f"reference,{tiny_model_dir}")
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "home"))
    new_server()


@pytest.fixture
def model(tiny_model_dir: Path) -> str:
    """What visitors call the tiny model."""
    return tiny_model_dir.name


def everything(at: AppTest) -> str:
    """All that a page sends to the browser, as text."""
    return "\n".join(str(one.proto) for block in (at.main, at.sidebar) for one in block if hasattr(one, "proto"))


def test_a_model_of_the_list_by_its_name(model: str, tiny_model_dir: Path) -> None:
    at = page("2_Granularity", model=model).run()
    assert errors(at) == []
    assert at.selectbox(key="model").options == ["reference", model]
    assert at.selectbox(key="model").value == model
    assert kept.shared_lab(model, "cpu").loaded.id == model


@pytest.mark.parametrize(
    "asked", ["/etc", "/no/such/folder", "{folder}", "owner/name", "../../x", "![x](http://evil.test)"]
)
def test_any_other_is_answered_alike(asked: str, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up: neither on the disk nor on the hub; and the words differ by what was asked alone."""
    for name in ("ui.kept.locate", "quantcore.lab.bench.load_model"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("was looked up"))
    asked = asked.format(folder=tiny_model_dir)
    at = page("1_Number_formats", model=asked).run()
    assert errors(at) == []
    assert at.selectbox(key="model").value == "reference"
    (notice,) = [one.value for one in at.warning]
    assert "this page has no such choice (it has reference, " in notice
    assert "showing reference instead" in notice
    assert "[x](" not in notice.replace("\\[x\\](", "")


def test_neither_data_sets_nor_devices_nor_the_list_of_models_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.sidebar.devices", lambda: ["cpu", "cuda:0"])
    monkeypatch.setattr(kept, "data_set", lambda _: pytest.fail("the hub was asked"))
    at = page("1_Number_formats", text="data set", device="cuda:0", learn_from="data set").run()
    assert errors(at) == []
    at.session_state["models"] = True
    at.run()
    assert "data set" not in [option for group in at.get("button_group") for option in group.options]
    assert not [one for one in at.button if str(one.key).startswith("try_")]
    assert "Device" not in [one.label for one in at.get("button_group")]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_shows_a_path_of_the_server(name: str, model: str, tiny_model_dir: Path) -> None:
    at = page(name, model=model, **({"scheme": SCHEME} if name.startswith("11") else {})).run()
    assert not at.exception
    shown = everything(at)
    assert len(shown) > 200
    for secret in (str(tiny_model_dir), str(tiny_model_dir.parent), str(home()), str(Path(__file__).parents[2])):
        assert secret not in shown


def test_a_checkpoint_of_a_class(model: str, tiny_model_dir: Path) -> None:
    """It is downloaded, not looked for on the server's disk; nothing in it tells where it or its model lay."""
    at = settle(page("16_Take_it_with_you", model=model, scheme=SCHEME))
    next(one for one in at.button if one.label == "Write the checkpoint").click().run()
    settle(at)
    assert errors(at) == []
    assert [one.label for one in at.get("download_button") if "zip" in one.label]
    (folder,) = (home() / "class-exports").iterdir()
    shown = everything(at)
    for secret in (str(folder), str(home()), str(tiny_model_dir)):
        assert secret not in shown
        assert not [path.name for path in folder.iterdir() if secret.encode() in path.read_bytes()]
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


def test_an_error_of_the_loader_names_no_path(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, broken)
    monkeypatch.setenv("QUANT_CLASS", f"reference,{broken}")
    assert classroom() is not None  # it was whole when the server began
    (broken / "config.json").write_text("{")
    at = settle(page("1_Number_formats", model="broken"))
    (sentence,) = errors(at)
    assert "broken" in sentence
    assert str(tmp_path) not in sentence


def test_the_third_job_of_a_visitor_waits_for_a_turn(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wait already; the page says so, and asks by itself when one of them has its turn."""
    monkeypatch.setattr(visitors, "asker", lambda: Asker("ann", "tab"))
    jobs, go = kept.jobs(), []

    def work(_: Teller) -> None:
        until = time.monotonic() + 60
        while not go and time.monotonic() < until:
            time.sleep(0.01)

    for key in "abc":
        job = jobs.submit("cpu", key, f"job {key}", work, Asker("ann", "tab"))
        assert job is not None
        while key == "a" and job.state == "waiting":
            time.sleep(0.01)
    at = page("7_Scheme_duel", model=model, duel=f"{SCHEME}\nw:int8/channel").run()
    assert errors(at) == []
    (said,) = [one.value for one in at.info]
    assert "2 jobs of yours wait in line already (job b, job c). This one follows by itself." in said
    go.append(True)
    settle(at)
    assert not [one for one in at.info if "in line already" in one.value]


def test_the_line_is_the_teachers_page(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "asker", lambda: Asker("teacher", "teacher"))  # a test's cookies change at every look
    jobs, ended = kept.jobs(), []

    def work(tell: Teller) -> None:
        while True:
            tell(0.5, "a layer")
            time.sleep(0.01)

    made = [jobs.submit("cpu", key, f"[job]({key})", work, Asker(key, key)) for key in "ab"]
    stranger = page("12_The_line").run()
    assert "This page is the teacher's" in stranger.info[0].value
    assert not [one for one in stranger.button if one.label in ("Clear the line", "End it")]
    for word in ("", "wrong"):
        assert page("12_The_line", teacher=word).run().info
    at = page("12_The_line", teacher=teachers_word()).run()
    assert not at.info
    shown = [one.value for one in at.markdown]
    assert "\\[job\\](a)" in shown
    assert "1 visitor" in shown
    next(one for one in at.button if one.label == "End it").click().run()
    assert made[0] is not None
    assert made[0].ended.wait(30)
    next(one for one in at.button if one.label == "Clear the line").click().run()
    assert made[1] is not None
    assert made[1].ended.wait(30)
    ended += [made[0].state, made[1].state]
    assert ended == ["cancelled", "cancelled"]
    at.run()
    assert "Nobody waits." in [one.value for one in at.caption]


def test_on_the_users_own_server_the_line_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANT_CLASS")
    kept.jobs.clear()
    at = page("12_The_line").run()
    assert not at.info
    assert "Nobody waits." in [one.value for one in at.caption]
