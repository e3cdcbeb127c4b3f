"""A class in a real browser: no link, text, file or model brings in what is not ours; and the teacher's line."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser_fixtures import ROOT, serving, wait_drawn, wait_until, watched
from tests.ui.test_hostile_model import MARKUP, make_hostile

pytestmark = pytest.mark.browser

PICTURE, LOGIN = "![x](http://evil.test/a.png)", "[log in](http://evil.test/login)"
HOSTILE = f"{PICTURE} {LOGIN} http://evil.test/bare www.evil.test <img src=http://evil.test/b.png> :red[x] $x^2$"
SHARED = ("layer", "text", "own", "dataset", "learn_from", "learn_own", "sequences")
PAGES = {  # the pages whose parameters are of every kind: lists, sliders, numbers, words, lines of text
    "": ("prompt", "bits"),
    "Layer_lab": ("a", "b"),
    "Scheme_duel": ("duel", "tokens"),
    "Take_it_with_you": ("scheme", "learn"),
}
ALERT = '[data-testid="stAlert"]'
WORD = "our own word"


@pytest.fixture(scope="module")
def models(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models: `tiny`, and one whose every string is markup."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_model_dir, folder / "tiny")
    make_hostile(tiny_model_dir, folder)
    return folder


@pytest.fixture(scope="module")
def class_url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server of a class that may see both."""
    listed = ", ".join(map(str, sorted(models.iterdir())))
    with serving(ROOT / "serve.py", tmp_path_factory.mktemp("class"), QUANT_CLASS=listed, QUANT_TEACHER=WORD) as url:
        yield url


@pytest.fixture
def strays(page: Any, class_url: str, server_url: str) -> Iterator[list[str]]:
    """What the page asked of others, and what its policy had to forbid."""
    with watched(page, class_url, server_url) as found:
        yield found


def foreign(page: Any) -> list[str]:
    """Links, pictures, formulas and colours on the page that a stranger's words have become."""
    return list(
        page.evaluate(
            """() => [
                ...[...document.links].filter((one) => one.hostname !== location.hostname).map((one) => one.href),
                ...[...document.images].filter((one) => one.src.includes("evil")).map((one) => one.src),
                ...[...document.querySelectorAll(".katex")].map((one) => one.outerHTML),
                ...[...document.querySelectorAll(".stMarkdownColoredText")].map((one) => one.innerText)
                    .filter((text) => ["x", "evil"].includes(text)),
            ]"""
        )
    )


def words(page: Any) -> str:
    """What stands on the page, without the invisible marks that part an address."""
    return str(page.inner_text("body")).replace("\N{WORD JOINER}", "")


def test_foreign_markup_is_seen(page: Any, class_url: str) -> None:
    page.goto(f"{class_url}/The_line")
    page.get_by_text("This page is the teacher's.").wait_for()
    assert foreign(page) == []
    page.evaluate(
        """() => document.body.insertAdjacentHTML("beforeend",
            '<a href="http://evil.test/">x</a><img src="/evil.png"><span class="katex"></span>')"""
    )
    assert len(foreign(page)) == 3


@pytest.mark.parametrize("name", PAGES)
def test_a_hostile_link_brings_in_nothing(page: Any, class_url: str, strays: list[str], name: str) -> None:
    """In every parameter of the page and the sidebar: no foreign picture, no link elsewhere, no colour."""
    asked = dict.fromkeys((*SHARED, "model", *PAGES[name]), HOSTILE)
    page.goto(f"{class_url}/{name}?{'&'.join(f'{key}={quote(value)}' for key, value in asked.items())}")
    page.wait_for_selector(ALERT)
    assert "evil.test" in words(page)
    assert foreign(page) == []
    assert strays == []


@pytest.mark.parametrize("asked", [HOSTILE, f"~{LOGIN}", f"/tmp/{PICTURE}"])
def test_a_hostile_model_id_is_told_as_it_was_typed(page: Any, server_url: str, strays: list[str], asked: str) -> None:
    page.goto(f"{server_url}/Number_formats?model={quote(asked)}")
    alert = page.locator(ALERT).first
    alert.wait_for()
    assert "http://evil.test" in alert.inner_text().replace("\N{WORD JOINER}", "")
    assert foreign(page) == []
    assert strays == []


def test_an_own_text_full_of_markup_is_a_text(page: Any, class_url: str, strays: list[str]) -> None:
    """Its tokens stand in pictures, tables and buttons."""
    text = f"{HOSTILE} <b>bold</b> var(--blue) ` *x* "
    page.goto(f"{class_url}/Outliers?text={quote('own text')}&own={quote(text * 3)}")
    wait_drawn(page, "layer_map")
    assert page.get_by_role("alert").all_inner_texts() == []
    assert foreign(page) == []
    assert strays == []


@pytest.mark.parametrize("name", ["", "Outliers"])
def test_a_model_full_of_markup_is_a_model(page: Any, class_url: str, strays: list[str], name: str) -> None:
    """Its folder's name, its architecture, each of its tokens, its chat template."""
    own = f"text={quote('own text')}&own=Where%3F"
    page.goto(f"{class_url}/{name}?model={quote(MARKUP.replace('/', ':'))}&{own}")
    page.wait_for_selector(".lab-chart[data-drawn]")
    page.get_by_role("button", name="Reset", exact=True).wait_for()
    assert page.get_by_role("alert").all_inner_texts() == []
    assert foreign(page) == []
    page.goto(f"{class_url}/{name}?model={quote(MARKUP.replace('/', ':'))}&{own}&chat=true")
    page.get_by_text("the chat template refuses").first.wait_for()
    assert foreign(page) == []
    assert strays == []


def test_an_upload_by_any_name_is_a_text(page: Any, class_url: str, strays: list[str], tmp_path: Path) -> None:
    page.goto(f"{class_url}/Number_formats?model=tiny&text={quote('own text')}")
    for name in (f"{MARKUP.replace('/', ':')[:200]}.txt", "..\\..\\x.txt", "n" * 250 + ".txt", "a`b`` `c`.md"):
        file = tmp_path / name
        file.write_text("The keeper lit the lamp. " * 20)
        page.locator('input[type="file"]').first.set_input_files(file)
        wait_until(page, "asked => document.body.innerText.includes(asked)", f"{name} is read.")
        assert page.get_by_role("alert").all_inner_texts() == []
        assert foreign(page) == []
    assert strays == []


def test_the_teachers_link_opens_the_line_and_leaves_the_address(page: Any, class_url: str) -> None:
    """Whoever has not come by it sees nothing of the line; whoever has, sees it after a reload too."""
    page.goto(f"{class_url}/The_line")
    page.get_by_text("This page is the teacher's.").wait_for()
    assert page.get_by_text("Open tabs").count() == 0
    page.goto(f"{class_url}/The_line?teacher={quote(WORD)}")
    page.get_by_text("Open tabs").first.wait_for()
    wait_until(page, "location.search === ''")
    page.reload()
    page.get_by_text("Open tabs").first.wait_for()
    stranger = page.context.browser.new_context()
    other = stranger.new_page()
    other.goto(f"{class_url}/The_line")
    other.get_by_text("This page is the teacher's.").wait_for()
    stranger.close()
