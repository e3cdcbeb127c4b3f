"""Reading texts: files of every kind, a data set of the hub; what is wrong with one is said in a sentence."""

import io
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from quantcore.model.loading import LoadedModel
from quantcore.text import files
from quantcore.text.files import LoadedText, hub_text, named_text, read_content, read_text_file
from quantcore.text.windows import token_windows
from tests.browser_fixtures import ROOT
from tests.fake_hub import COMMIT, fake_hub
from tests.forked import run
from tests.tiny import END, tiny_tokenizer
from ui.sidebar import UPLOAD_HELP

TALK = [{"role": "user", "content": "Where is the key?"}, {"role": "assistant", "content": "On the table."}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"


def parquet(**columns: list[Any]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "content", "joined"),
    [
        ("a.txt", "gr\u00fc\u00dfe\n".encode(), "gr\u00fc\u00dfe\n"),
        ("a.md", b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("a.jsonl", lines({"text": "one"}, {"text": "two\nlines", "id": 2}) + b"\n\n", "one\n\ntwo\nlines"),
        ("a.jsonl", lines({"messages": TALK}), "Where is the key?\n\nOn the table."),
        ("a.parquet", parquet(id=[1, 2, 3], text=["one", "", None]), "one\n\n\n\n"),
        ("a.parquet", parquet(messages=[TALK]), "Where is the key?\n\nOn the table."),
    ],
)
def test_every_kind_of_file(tmp_path: Path, name: str, content: bytes, joined: str) -> None:
    assert read_content(name, content).joined() == joined
    (tmp_path / name).write_bytes(content)
    assert read_text_file(tmp_path / name).joined() == joined


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "'a.txt' is empty, and a model needs a sentence to read; give one"),
        ("a.txt", b" \n", "'a.txt' is empty"),
        ("a.txt", "gr\u00fc\u00dfe".encode("latin-1"), r"'a.txt' is not UTF-8 text \(byte 2\); save it as UTF-8"),
        ("a.jsonl", b'{"text": "one"}\n{"text"', "'a.jsonl', line 2, is no JSON .*; write one object a line"),
        (
            "a.jsonl",
            lines({"prompt": "x", "answer": "y"}),
            r"line 1, has no field 'text' .*has prompt, answer.; rename",
        ),
        ("a.jsonl", lines(["x"]), r"line 1, has no field 'text' or 'messages' \(it has list\)"),
        ("a.jsonl", lines({"text": 3}), "line 1: the text is a int, not a string nor a list of role and content"),
        ("a.jsonl", lines({"messages": [{"role": "user"}]}), "line 1: the text is a list, not a string"),
        ("a.jsonl", b"\n\n", "'a.jsonl' is empty"),
        ("a.parquet", parquet(prompt=["x"], id=[1]), r"'a.parquet' has no column 'text' .*it has prompt, id.; rename"),
        ("a.parquet", parquet(text=["x" * 5000])[:-9], "'a.parquet' is no whole parquet file .*; save it again"),
        ("a.parquet", b"no table", "'a.parquet' is no whole parquet file"),
        ("a.parquet", parquet(text=[None, ""]), "'a.parquet' is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        read_content(name, content)
    assert "\n" not in str(caught.value)


def test_long_texts_are_refused_before_they_are_read(tmp_path: Path) -> None:
    sentence = "the text has 50.0 MB, the limit is 20 MB; give a part of it"
    with pytest.raises(ValueError, match=sentence):
        read_content("a.txt", b"a" * 50_000_000)
    (tmp_path / "a.txt").touch()
    os.truncate(tmp_path / "a.txt", 50_000_000)
    with pytest.raises(ValueError, match=sentence):
        read_text_file(tmp_path / "a.txt")
    small = parquet(text=["word " * 100 + str(place) for place in range(60_000)])
    assert len(small) < 5_000_000  # compressed it is small
    with pytest.raises(ValueError, match="'a.parquet' holds more than 20 MB of text; give a part of it"):
        read_content("a.parquet", small)


def table(column: Any) -> bytes:
    file = io.BytesIO()
    made = pyarrow.table({"text": column})
    pyarrow.parquet.write_table(made, file, compression="zstd", store_schema=False, dictionary_pagesize_limit=2**31 - 1)
    return file.getvalue()


def one_text_in_every_row() -> bytes:
    rows, texts = pyarrow.array([0] * 1500, "int32"), pyarrow.array(["word " * 200_000])
    return table(pyarrow.DictionaryArray.from_arrays(rows, texts))


def one_long_text() -> bytes:
    return table(pyarrow.array(["word " * 30_000_000]))


def many_empty_rows() -> bytes:
    return table(pyarrow.nulls(50_000_000, "string"))


BOMBS = {
    one_text_in_every_row: "holds more than 20 MB of text; give a part of it",
    one_long_text: "cannot be read .it needed more than .* MB of memory and was stopped.; save it again",
    many_empty_rows: "cannot be read .it needed more than 1 s of processor time and was stopped.; save it again",
}


@pytest.mark.parametrize("tried", BOMBS, ids=lambda tried: tried.__name__)
def test_a_small_table_that_decodes_to_much_is_refused(
    tried: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tried()
    assert len(content) < 200_000
    if tried is many_empty_rows:
        monkeypatch.setattr(files, "PARQUET_S", 1.0)
    if tried is one_long_text:
        monkeypatch.setattr(files, "PARQUET_MEMORY", 200_000_000)
        assert read_content("a.parquet", parquet(text=["a lamp"])).documents == ("a lamp",)  # enough for others
    with pytest.raises(ValueError, match=f"^'a.parquet' {BOMBS[tried]}"):
        read_content("a.parquet", content)


def test_other_tables_are_told_by_what_they_hold() -> None:
    with pytest.raises(ValueError, match="has no texts: its column 'text' holds int64, not strings nor lists of role"):
        read_content("a.parquet", table(pyarrow.array([1, 2])))
    with pytest.raises(ValueError, match="row 1: the text is a list, not a string nor a list of role and content"):
        read_content("a.parquet", table(pyarrow.array([[{"role": "user"}]])))


def test_one_limit_of_files_in_shell_browser_server_and_words(tmp_path: Path) -> None:
    """A browser's file above the server's limit is answered 413, and the visitor sees no sentence of ours."""
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["server"]["maxUploadSize"] == files.LONGEST_FILE_MB
    assert f"a file of at most {files.LONGEST_FILE_MB} MB, with 20 MB of text" in UPLOAD_HELP
    (tmp_path / "a.parquet").touch()
    os.truncate(tmp_path / "a.parquet", 26 * 2**20 + 1)
    with pytest.raises(ValueError, match="'a.parquet' has 26 MB, the limit of a file is 25 MB; give a smaller one"):
        read_text_file(tmp_path / "a.parquet")


NO_FILES = {
    "a long name": "x" * 300 + ".txt",
    "a long path": "/".join(["folder"] * 1000) + ".txt",
    "an unknown user's": "~nobody-here/a.txt",
    "a zero byte in it": "a\0b.txt",
    "half a character in it": "a\ud800b.txt",
    "a folder": "/",
    "a device that never ends": "/dev/zero",
    "a process's memory": "/proc/self/mem",
    "a file of the system's that claims to be empty": "/proc/self/maps",
}


@pytest.mark.parametrize("tried", NO_FILES)
def test_what_is_no_file_to_read_is_one_sentence(tried: str) -> None:
    with pytest.raises(
        ValueError, match="cannot be the name of a file|no file is called|may not be read|is empty"
    ) as caught:
        named_text(NO_FILES[tried])
    assert len(str(caught.value)) < 400


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="no file is called"):
        named_text(str(tmp_path / "a.txt"))


LINES = {
    "nested": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 1, is no JSON .maximum recursion depth"),
    "a number of 10,000 digits": (b'{"text": ' + b"1" * 10_000 + b"}", "line 1, is no JSON .Exceeds the limit"),
    "a field of 100,000 letters": (b'{"' + b"x" * 100_000 + b'": 1}', "line 1, has no field 'text'"),
}


@pytest.mark.parametrize("tried", LINES)
def test_a_line_of_json_is_refused_in_one_sentence(tried: str) -> None:
    line, refusal = LINES[tried]
    with pytest.raises(ValueError, match=refusal) as caught:
        read_content("a.jsonl", line)
    assert len(str(caught.value)) < 400


def test_half_a_character_is_read_as_a_question_mark(tiny_lm: LoadedModel) -> None:
    text = read_content("a.jsonl", b'{"text": "a\\ud800b c"}')
    assert tiny_lm.tokenizer.decode(token_windows(tiny_lm.tokenizer, text.joined())[0, 1:]) == "a?b c"
    assert len(text.hash) == 16


def test_the_hash_is_that_of_the_documents() -> None:
    one = LoadedText("a", ("x", "y"))
    assert one.hash == LoadedText("b", ("x", "y")).hash
    assert len({one.hash, LoadedText("a", ("x\n\ny",)).hash, LoadedText("a", ("y", "x")).hash}) == 3


def test_a_chat_template_wraps_every_document(tiny_lm: LoadedModel) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    tokenizer.chat_template = TEMPLATE
    text = LoadedText("a", ("One.", " ", tuple(TALK)))
    told = "<user>One.</><user>Where is the key?</><assistant>On the table.</>"
    assert "".join(text.parts(tokenizer, chat=True)) == told
    read = tokenizer.decode(token_windows(tokenizer, told, 32)[0]).removeprefix(END)  # which the tokenizer puts there
    assert read == told[: len(read)]
    with pytest.raises(
        ValueError, match="this model's tokenizer has no chat template, so 'a' can only be read as it is"
    ):
        "".join(text.parts(tiny_lm.tokenizer, chat=True))

    def refuse(*_: Any, **__: Any) -> str:
        raise RuntimeError("roles must alternate")

    strict = SimpleNamespace(chat_template="x", apply_chat_template=refuse)
    with pytest.raises(ValueError, match="the chat template refuses 'a': roles must alternate; read it without"):
        "".join(text.parts(strict, chat=True))


@pytest.mark.parametrize("name", ["wikitext", "a b/c", "owner/name:", "https://host/x"])
def test_what_is_no_data_sets_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no data set's name; try wikitext-2, owner/name, or owner/name:file"):
        hub_text(name)


ASK = """
import json, sys
from quantcore.text.files import hub_text
answers = []
for name in sys.argv[1:]:
    try:
        text = hub_text(name)
        answers.append([text.name, text.joined(), text.revision])
    except ValueError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def test_data_sets_of_the_hub(tmp_path: Path) -> None:
    """From a hub on this machine, in a process of its own: its address is read when its library is imported."""
    wikitext, own, other = tmp_path / "wikitext", tmp_path / "own", tmp_path / "other"
    (wikitext / "wikitext-2-raw-v1").mkdir(parents=True)
    rows = ["", " = Title = \n", " A line . \n"]
    (wikitext / "wikitext-2-raw-v1" / "test-00000-of-00001.parquet").write_bytes(parquet(text=rows))
    own.mkdir()
    for split in ("train", "test"):
        (own / f"{split}.jsonl").write_bytes(lines({"text": split}))
    with (own / "large.parquet").open("wb") as large:
        large.truncate(60_000_001)
    other.mkdir()
    (other / "data.csv").write_text("text\nx\n")
    known = {"Salesforce/wikitext": wikitext, "tiny/own": own, "tiny/other": other}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "critical"}
    names = ["wikitext-2", "tiny/own", "tiny/own:train.jsonl", "tiny/own:nope.txt", "tiny/own:large.parquet"]
    with fake_hub({}, known) as url:
        env = {**os.environ, **quiet, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        found = json.loads(run("-c", ASK, *names, "tiny/other", "tiny/none", env=env, timeout=120).stdout)
    file = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert found[0] == [f"Salesforce/wikitext:{file}", "\n\n".join(rows), COMMIT]
    assert found[1:3] == [["tiny/own:test.jsonl", "test", COMMIT], ["tiny/own:train.jsonl", "train", COMMIT]]
    assert "the hub has the id but not this file" in found[3]
    assert "'tiny/own:large.parquet' has 57 MB, the limit of a file is 25 MB; give a smaller one" in found[4]
    assert "has no .parquet, .jsonl or .txt file; name another" in found[5]
    assert "could not load the data set 'tiny/none': the hub has no such id" in found[6]
    offline = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = json.loads(run("-c", ASK, "wikitext-2", "tiny/own", env=offline, timeout=120).stdout)
    assert again[0] == found[0]
    assert "the hub did not answer" in again[1]
