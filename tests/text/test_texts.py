"""Reading texts: files of every kind, a data set of the hub; what is wrong with one is said in a sentence."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from quantcore.model.loading import LoadedModel
from quantcore.text.files import LoadedText, hub_text, read_content, read_text_file
from quantcore.text.windows import token_windows
from tests.browser_fixtures import ROOT
from tests.fake_hub import COMMIT, fake_hub

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
    with pytest.raises(ValueError, match="the text has .* MB, the limit is 20 MB"):
        read_content("a.parquet", small)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file is called .*missing.txt'; give one of .txt, .md, .jsonl, .parquet"):
        read_text_file(tmp_path / "missing.txt")


def test_the_hash_is_that_of_the_documents() -> None:
    one = LoadedText("a", ("x", "y"))
    assert one.hash == LoadedText("b", ("x", "y")).hash
    assert len({one.hash, LoadedText("a", ("x\n\ny",)).hash, LoadedText("a", ("y", "x")).hash}) == 3


def test_a_chat_template_wraps_every_document(tiny_lm: LoadedModel) -> None:
    tokenizer = tiny_lm.tokenizer.__class__(tokenizer_object=tiny_lm.tokenizer.backend_tokenizer)
    tokenizer.chat_template = TEMPLATE
    text = LoadedText("a", ("One.", " ", tuple(TALK)))
    told = "<user>One.</><user>Where is the key?</><assistant>On the table.</>"
    assert text.joined(tokenizer, chat=True) == told
    assert (
        tokenizer.decode(token_windows(tokenizer, told, 32)[0])
        == told[: len(tokenizer.decode(token_windows(tokenizer, told, 32)[0]))]
    )
    with pytest.raises(
        ValueError, match="this model's tokenizer has no chat template, so 'a' can only be read as it is"
    ):
        text.joined(tiny_lm.tokenizer, chat=True)

    def refuse(*_: Any, **__: Any) -> str:
        raise RuntimeError("roles must alternate")

    strict = SimpleNamespace(chat_template="x", apply_chat_template=refuse)
    with pytest.raises(ValueError, match="the chat template refuses 'a': roles must alternate; read it without"):
        text.joined(strict, chat=True)


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
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "critical", "PYTHONPATH": str(ROOT)}
    names = ["wikitext-2", "tiny/own", "tiny/own:train.jsonl", "tiny/own:nope.txt", "tiny/own:large.parquet"]
    with fake_hub({}, known) as url:
        env = {**os.environ, **quiet, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        run = [sys.executable, "-c", ASK, *names, "tiny/other", "tiny/none"]
        found = json.loads(subprocess.run(run, env=env, capture_output=True, text=True, timeout=120).stdout)
    file = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert found[0] == [f"Salesforce/wikitext:{file}", "\n\n".join(rows), COMMIT]
    assert found[1:3] == [["tiny/own:test.jsonl", "test", COMMIT], ["tiny/own:train.jsonl", "train", COMMIT]]
    assert "the hub has the id but not this file" in found[3]
    assert "tiny/own:large.parquet has 60 MB, the limit is 60 MB; name a smaller file" in found[4]
    assert "has no .parquet, .jsonl or .txt file; name another" in found[5]
    assert "could not load the data set 'tiny/none': the hub has no such id" in found[6]
    offline = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    run = [sys.executable, "-c", ASK, "wikitext-2", "tiny/own"]
    again = json.loads(subprocess.run(run, env=offline, capture_output=True, text=True, timeout=120).stdout)
    assert again[0] == found[0]
    assert "the hub did not answer" in again[1]
