"""Texts that a model reads: pasted, from a file (.txt, .md, .jsonl, .parquet), or a data set of the hub.

    text = read_text_file("prompts.jsonl")          or read_content(name, bytes), hub_text("wikitext-2")
    tokens = token_windows(tokenizer, text.joined(), length=512, limit=8 * 512)

A file of text is one document. A .jsonl line is a document: an object with a string `text`, or with `messages`, a list
of {"role", "content"}. A .parquet row is a document, its column called `text` or `messages`. Documents are joined by
blank lines, empty ones included: for WikiText-2 that is the text on which perplexities are published. With a chat
template each document becomes a conversation, a plain one the user's first turn.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantcore.model.bounded_process import BoundedProcess, Ended, Limits, Reported
from quantcore.model.hub import TIMEOUT_S, hub_problem
from quantcore.model.named_path import cause, named_path
from quantcore.model.sentences import quoted
from quantcore.text.windows import LONGEST_TEXT_BYTES, require_text_size

Message = dict[str, str]
Document = str | tuple[Message, ...]
FIELDS = ("text", "messages")
KINDS = ("txt", "md", "jsonl", "parquet")
WANTED = f"one of .{', .'.join(KINDS)}"
DATA_SETS = {  # short name -> repository and file
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet"),
}
DATA_SET = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<file>[\w./@=+-]+))?")
LONGEST_FILE_MB = 25  # of a file that is read, sent by a browser (server.maxUploadSize) or fetched from the hub
PARQUET_PROGRAM = Path(__file__).with_name("parquet_program.py")
PARQUET_S, PARQUET_MEMORY = 10.0, 400_000_000
SPLITS = ("test", "validation", "valid", "dev", "train")
LONGEST_WORDS = 200  # characters of what a library says of a fault
TOGETHER = 100_000  # characters that are asked of a chat template at once


@dataclass(frozen=True)
class LoadedText:
    """Documents under the name that they came by; `revision` is the hub's commit, None for what is not from there."""

    name: str
    documents: tuple[Document, ...]
    revision: str | None = None

    def __post_init__(self) -> None:
        if not any(_plain(one).strip() for one in self.documents):
            raise ValueError(f"{quoted(self.name)} is empty, and a model needs a sentence to read; give one")
        require_text_size(sum(len(_plain(one).encode("utf-8", "replace")) for one in self.documents))

    @cached_property
    def characters(self) -> int:
        """Of the text as it is joined, without a template."""
        return len(self.joined())

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all documents, 16 digits; it does not depend on the name."""
        return hashlib.sha256(json.dumps(self.documents).encode()).hexdigest()[:16]

    def joined(self) -> str:
        """The text as it is, without a template."""
        return "\n\n".join(_plain(one) for one in self.documents)

    def parts(self, tokenizer: Any, chat: bool = False) -> Iterator[str]:
        """The text as the model reads it; `chat`: each document in the tokenizer's chat template, a few of them a part.

        Raises: ValueError where the tokenizer has no template, or its template refuses a conversation."""
        if not chat:
            yield self.joined()
            return
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"this model's tokenizer has no chat template, so {quoted(self.name)} can only be read as it is"
            )
        size = 0
        for turns in self._conversations():
            try:
                told = "".join(tokenizer.apply_chat_template(turns, tokenize=False))
            except Exception as error:  # a template is a program of the model's author
                words = " ".join(str(error).split())[:LONGEST_WORDS]
                raise ValueError(
                    f"the chat template refuses {quoted(self.name)}: {words}; read it without the template"
                ) from error
            require_text_size(size := size + len(told.encode("utf-8", "replace")))
            yield told

    def _conversations(self) -> Iterator[list[list[Message]]]:
        """The documents as conversations, so many together as TOGETHER characters hold."""
        turns, length = list[list[Message]](), 0
        for one in self.documents:
            if plain := _plain(one).strip():
                turns.append(list(one) if isinstance(one, tuple) else [{"role": "user", "content": one}])
                length += len(plain)
            if length >= TOGETHER:
                yield turns
                turns, length = [], 0
        if turns:
            yield turns


def read_text_file(path: str | Path) -> LoadedText:
    """A file of the user's. Raises: ValueError if it is missing, may not be read, is too long, empty, or damaged."""
    return read_content(str(path), file_content(path))


def file_content(path: str | Path, wanted: str = WANTED) -> bytes:
    """A text file's bytes. Raises: ValueError if it is missing, may not be read, or is too long."""
    file = named_path(path)
    if not file.is_file():
        raise ValueError(f"no file is called {quoted(path)}; give {wanted}")
    size = file.stat().st_size
    if _kind(file.name) == "parquet":
        require_file_size(file.name, size)
    else:
        require_text_size(size)
    try:
        with file.open("rb") as opened:
            return opened.read(size)  # what claims to be empty, as all of /proc does, is not read to its end
    except OSError as error:
        raise ValueError(
            f"{quoted(path)} may not be read by this user ({cause(error)}); give the right to, or copy it"
        ) from error


def named_text(name: str) -> LoadedText:
    """A file, or where there is none of that name a data set of the hub. Raises: ValueError."""
    named_as_file = ":" not in name and _kind(name) in KINDS
    if named_as_file or not (name in DATA_SETS or DATA_SET.fullmatch(name)) or os.path.isfile(name):  # noqa: PTH113
        return read_text_file(name)  # (Path.is_file raises for a name that is too long)
    return hub_text(name)


def read_content(name: str, content: bytes) -> LoadedText:
    """A file's content, read as the end of its name says; any other end is UTF-8 text. Raises: ValueError."""
    if not content:
        raise ValueError(f"{quoted(name)} is empty, and a model needs a sentence to read; give one")
    if _kind(name) == "parquet":
        require_file_size(name, len(content))
        return LoadedText(name, _parquet(name, content))
    require_text_size(len(content))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{quoted(name)} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return LoadedText(name, _jsonl(name, text) if _kind(name) == "jsonl" else (text,))


def hub_text(name: str) -> LoadedText:
    """One file of a hub's data set: a short name of DATA_SETS, `owner/name`, or `owner/name:file.parquet`.

    Without a file the first is taken that can be read, of the test split if there is one. What is in the cache is not
    asked for again. Raises: ValueError where the hub does not give it, or it holds no text."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    repo, file = _named(name)
    try:
        if file is None:
            file = _first_file(repo)
        wanted: dict[str, Any] = {"repo_id": repo, "filename": file, "repo_type": "dataset"}
        try:
            path = hf_hub_download(**wanted, local_files_only=True)
        except LocalEntryNotFoundError:
            require_file_size(f"{repo}:{file}", _files(repo).get(file, 0))
            path = hf_hub_download(**wanted)
    except (HTTPError, OSError) as error:
        raise ValueError(f"could not load the data set {quoted(name)}: {hub_problem(error)}") from error
    found = read_content(f"{repo}:{file}", Path(path).read_bytes())
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", path)
    return LoadedText(found.name, found.documents, commit[1] if commit else None)


def _named(name: str) -> tuple[str, str | None]:
    if name in DATA_SETS:
        return DATA_SETS[name]
    match = DATA_SET.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{quoted(name)} is no data set's name; try {', '.join(DATA_SETS)}, owner/name, or owner/name:file"
        )
    return match["id"], match["file"]


def _files(repo: str) -> dict[str, int]:
    """Name -> bytes of the files that can be read."""
    from huggingface_hub import HfApi

    listed = HfApi().dataset_info(repo, files_metadata=True, timeout=TIMEOUT_S).siblings or ()
    return {one.rfilename: one.size or 0 for one in listed if one.rfilename.endswith((".parquet", ".jsonl", ".txt"))}


def _first_file(repo: str) -> str:
    files = [name for name in sorted(_files(repo)) if not name.endswith(("README.txt", "LICENSE.txt"))]
    if not files:
        raise ValueError(f"the data set {repo!r} has no .parquet, .jsonl or .txt file; name another")
    return next((one for split in SPLITS for one in files if split in one.lower()), files[0])


def require_file_size(name: str, size: int) -> None:
    """Raises: ValueError for a file that is larger than any that is read, sent or fetched."""
    if size > LONGEST_FILE_MB * 2**20:
        raise ValueError(
            f"{quoted(name)} has {size / 2**20:,.0f} MB, the limit of a file is {LONGEST_FILE_MB} MB; give a smaller "
            "one"
        )


def _jsonl(name: str, text: str) -> tuple[Document, ...]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{quoted(name)}, line {number}, is no JSON ({error}); write one object a line") from error
        field = next((one for one in FIELDS if isinstance(row, dict) and one in row), None)
        if field is None:
            has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise ValueError(
                f"{quoted(name)}, line {number}, has no field 'text' or 'messages' (it has {has[:80]}); rename one"
            )
        documents.append(_document(f"{quoted(name)}, line {number}", row[field]))
    return tuple(documents)


def _parquet(name: str, content: bytes) -> tuple[Document, ...]:
    question = {"do": "texts", "fields": FIELDS, "longest": LONGEST_TEXT_BYTES}
    limits = Limits(seconds=PARQUET_S, memory=PARQUET_MEMORY + 10 * len(content))
    child = BoundedProcess(PARQUET_PROGRAM)
    try:
        answer, _ = child.ask(question, content, limits)
    except (Ended, Reported) as error:
        raise ValueError(f"{quoted(name)} cannot be read ({error}); save it again, or give a part of it") from None
    finally:
        child.close()
    if "problem" in answer:
        raise ValueError(f"{quoted(name)} {answer['problem']}")
    return tuple(_document(f"{quoted(name)}, row {number}", row) for number, row in enumerate(answer["rows"], 1))


def _document(where: str, value: Any) -> Document:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(_is_message(one) for one in value):
        return tuple({"role": one["role"], "content": one["content"]} for one in value)
    raise ValueError(
        f"{where}: the text is a {type(value).__name__}, not a string nor a list of role and content; mend it"
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _plain(document: Document) -> str:
    if isinstance(document, str):
        return document
    return "\n\n".join(message["content"] for message in document)


def _kind(name: str) -> str:
    """The end of a file's name, in small letters."""
    return name.rpartition(".")[2].lower()
