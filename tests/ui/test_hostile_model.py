"""A model whose every string is markup: its folder, its architecture, each token, the words of its chat template.

No page shows them as anything but words (tests/ui/test_browser_class.py: what a browser makes of links like that)."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apptest_helpers import ROOT, errors, figures_of, own_server, page, settle

PAGES = ["", *sorted(path.stem for path in (ROOT / "pages").glob("*.py"))]
MARKUP = (
    "![x](http://evil.test/a.png) [in](http://evil.test) <img src=http://evil.test/b.png> :red[evil] $evil^2$ "
    "**evil** :material/evil: `evil` www.evil.test"
)
READ = re.compile(
    r"(?<!\\)!\[|(?<!\\)\]\(http|(?<!\\)<img|(?<![\\\w]):red\[|(?<!\\)\$evil|(?<!\\)\*\*evil|:material/evil|https?://evil"
    r"|www\.evil"
)
CODE = re.compile(r"(`+).*?\1", re.DOTALL)
PLAIN = ("text_input", "text_area", "code", "html")  # whose content is shown as it is


@pytest.fixture(scope="module")
def hostile(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile(tiny_model_dir, tmp_path_factory.mktemp("models"))


def make_hostile(good: Path, models: Path) -> Path:
    """The model, made of a good one in a folder of models."""
    folder = models / MARKUP.replace("/", ":")
    shutil.copytree(good, folder)
    says = {"type": "Replace", "pattern": {"Regex": "^.*$"}, "content": MARKUP}
    changes: dict[str, dict[str, Any]] = {
        "config.json": {"architectures": [MARKUP], "_name_or_path": MARKUP},
        "tokenizer.json": {"decoder": {"type": "Sequence", "decoders": [says]}},
    }
    for name, change in changes.items():
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))
    (folder / "chat_template.jinja").write_text(f"{{{{ raise_exception('{MARKUP}') }}}}")
    return folder


@pytest.fixture(autouse=True, scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_server(tmp_path_factory.mktemp("home")):
        yield


def read_in(at: Any) -> list[str]:
    """The texts of a page in which a browser would read markup."""
    words = []
    for one in (*at.main, *at.sidebar):
        names = ("label", "help") if one.type in PLAIN else ("body", "text", "label", "help", "caption", "title")
        words += [text for name in names if isinstance(text := getattr(getattr(one, "proto", None), name, None), str)]
    return [text for text in words if READ.search(CODE.sub("", text))]


@pytest.mark.parametrize("text", [MARKUP, f"a {MARKUP}", "**evil**", "http://evil.test"])
def test_markup_is_seen(text: str) -> None:
    assert READ.search(CODE.sub("", text))


@pytest.mark.parametrize("name", PAGES)
def test_no_page_reads_it(hostile: Path, name: str) -> None:
    at = settle(page(name, model=hostile, text="own text", own=MARKUP * 3))
    assert errors(at) == []
    assert read_in(at) == []
    for shown in figures_of(at):
        assert "<img" not in json.dumps(shown["figure"]), shown["key"]


@pytest.mark.parametrize("name", ["3_Outliers", "7_Scheme_duel"])
def test_no_sentence_reads_it(hostile: Path, name: str) -> None:
    at = settle(page(name, model=hostile, text="own text", own="Where?", chat="true"))
    assert "the chat template refuses" in errors(at)[0]
    assert read_in(at) == []
