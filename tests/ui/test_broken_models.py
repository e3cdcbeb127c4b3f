"""Models that are incomplete, that lie, or that are hostile, asked for on a page: the names of these tests are a table
of what was tried and how it is refused, read at once or as a job, and whatever comes next runs."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.apptest_helpers import errors, figures_of, own_server, page, settle
from tests.model.broken_folders import BROKEN
from tests.model.test_gguf_file import HOSTILE
from tests.model.test_tokenizer import REFUSED_AT_LOAD, REFUSED_ON_A_TEXT, REFUSED_TEMPLATES, shorten
from ui import kept

FOLDERS = (
    "a weight is missing", "torch.compile's prefix", "no head, and none tied", "a block is missing",
    "bitsandbytes, 8 bits", "weights of bytes", "fp8 by blocks", "AutoGPTQ", "MLX", "compression_config",
    "quantization_config is a word", "an index that leads up", "an index of whole numbers", "a million blocks",
    "no position", "weights that break off", "a header of 2^63 bytes", "config.json 10,000 levels deep",
    "a pipe called model.safetensors", "generation_config.json of no known words",
)  # fmt: skip
FILES = ("an array of no known type", "four thousand million dimensions")
WAYS = ("page", "job")


@pytest.fixture(autouse=True, scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all, as in life: what was refused before harms nobody who comes next."""
    with own_server(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def change_tokenizer(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def plain(sentence: str) -> str:
    """A sentence of a page without the marks that keep Markdown from reading it."""
    return re.sub(r"\\(?=[^A-Za-z0-9\s])|\N{WORD JOINER}", "", sentence)


def require_refused(at: AppTest, sentence: str) -> None:
    assert not at.exception
    (said,) = map(plain, errors(at))
    assert re.search(sentence, said), said
    assert len(said) < 400
    assert "; " in said, "the way out stands behind a semicolon"


def require_next(model: Path) -> None:
    """The same page of a good model is whole."""
    at = settle(page("3_Outliers", model=model))
    assert errors(at) == []
    assert figures_of(at)


def asked(way: str, model: Path, monkeypatch: pytest.MonkeyPatch, name: str = "3_Outliers", **state: str) -> AppTest:
    """A page of the model, which is read by the page itself or by a job."""
    if way == "job":
        monkeypatch.setattr(kept, "LOAD_AT_ONCE_BYTES", -1)
    return settle(page(name, model=model, **state))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tried", FOLDERS)
def test_refused(tried: str, way: str, folder: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, sentence = BROKEN[tried]
    change(folder)
    require_refused(asked(way, folder, monkeypatch), sentence)
    require_next(tiny_model_dir)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tried", ["panics at load", "grows the text without bound", "ids too large"])
def test_a_tokenizer_is_refused(
    tried: str, way: str, folder: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, sentence = REFUSED_AT_LOAD[tried]
    change_tokenizer(folder, change)
    require_refused(asked(way, folder, monkeypatch), sentence)
    require_next(tiny_model_dir)


@pytest.mark.parametrize("way", WAYS)
def test_a_tokenizer_that_panics_on_a_text_is_refused_there(way: str, folder: Path, tiny_model_dir: Path) -> None:
    """On a page that reads an own text, and in a duel, which is a job; ordinary text is read."""
    pattern, text, sentence = REFUSED_ON_A_TEXT["panics"]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    change_tokenizer(folder, lambda content: content.update(pre_tokenizer=split))
    name = "3_Outliers" if way == "page" else "7_Scheme_duel"
    require_refused(settle(page(name, model=folder, text="own text", own=text)), sentence)
    assert errors(settle(page("3_Outliers", model=folder))) == []
    require_next(tiny_model_dir)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tried", ["never ends", "takes memory"])
def test_a_chat_template_is_refused(
    tried: str, way: str, folder: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, tried)
    template, sentence = REFUSED_TEMPLATES[tried]
    (folder / "chat_template.jinja").write_text(template)
    name = "3_Outliers" if way == "page" else "7_Scheme_duel"
    at = page(name, model=folder, text="own text", own="Where is the key?", chat="true")
    require_refused(settle(at), sentence)
    require_next(tiny_model_dir)


@pytest.mark.parametrize("tried", FILES)
def test_a_gguf_file_is_refused(tried: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    """A GGUF file is always a job's."""
    data, sentence = HOSTILE[tried]
    file = tmp_path / "hostile.gguf"
    file.write_bytes(b"GGUF" + data + bytes(40))
    require_refused(settle(page("3_Outliers", model=file)), sentence)
    require_next(tiny_model_dir)
