"""What ARCHITECTURE.md, CONTRIBUTING.md and README.md say is so: files exist, code runs, a toy page opens."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from quantcore.methods import codes, options
from quantcore.numbers import formats
from tests.browser_fixtures import ROOT
from ui import menu, settled

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
TO_COME = {"quantcore/methods/down.py", "pages/17_Zeros.py", "tests/ui/test_page_zeros.py"}  # the toys' own files
ROOMS = ("app.py", "serve.py", "pages/", "ui/", "quantcore/", "tests/", "benchmarks/", "tools/", "assets/")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(document), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_it_names_exist(document: str) -> None:
    text = text_of(document)
    named = {name for name in re.findall(r"`([\w./-]+)`", text) if name.startswith(ROOMS)}
    named |= set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert named
    assert {name for name in named - TO_COME if not (ROOT / name).exists()} == set()


@pytest.fixture
def registries() -> Iterator[None]:
    """What the toys register is forgotten afterwards."""
    tables = (formats.FORMATS, options.METHODS, codes.SOLVERS)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


@pytest.mark.usefixtures("registries")
def test_the_examples_print_what_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    study, fmt, method = blocks("ARCHITECTURE.md", "python")
    said = []
    for code in (study, fmt, method):
        exec(compile(code, "ARCHITECTURE.md", "exec"), {})
        said.append(capsys.readouterr().out.strip())
    assert said[0].startswith("group64 3.25 bits, ")  # 3 + 16 bits of scale over 64 columns
    assert f"# {said[1]}" in fmt
    assert f"`{said[2]}`" in text_of("ARCHITECTURE.md")


def test_the_toy_page_opens_and_stands_in_the_menu(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "pages", tmp_path / "pages")
    shutil.copy(ROOT / "app.py", tmp_path)
    (code,) = blocks("ARCHITECTURE.md", "py")
    (tmp_path / "pages" / "17_Zeros.py").write_text(code)
    monkeypatch.setattr(menu, "ROOT", tmp_path)
    monkeypatch.setattr(settled, "SOON_S", 120.0)
    menu.sections.cache_clear()
    try:
        assert menu.sections()["Learn"]["Zeros"] == "pages/17_Zeros.py"
        at = AppTest.from_file(str(tmp_path / "app.py"), default_timeout=240)
        at.switch_page("pages/17_Zeros.py")
        at.query_params["model"] = str(tiny_model_dir)
        at.run()
    finally:
        menu.sections.cache_clear()
    assert not at.exception
    assert at.title[0].value == "How many weights become zero?"
    assert re.search(r"\*\*[\d.]+%\*\* of its weights become 0", "\n".join(one.value for one in at.markdown))


def test_a_commit_is_checked_as_make_checks() -> None:
    (local,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", text_of("Makefile"), re.MULTILINE)[1]
    asked = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert [hook["entry"] for hook in local["hooks"]] == asked
    assert local["repo"] == "local"
