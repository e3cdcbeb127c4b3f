"""The tokenizer of a model's folder: what strangers wrote runs in a child process, with a limit of time and memory.

    tokenizer = tokenizer_of("owner/name", place)        its process starts; what it reads is read when it is asked
    require_ids(tokenizer, 32_000)                       the model's vocabulary

A tokenizer is a small program of its author's: regular expressions that need not end, replacements that make a text
grow without bound, codes that make the library panic (which is no Exception); so is a chat template. The reference
model's tokenizer is ours and stays in this process.

BoundedTokenizer has those methods of transformers' tokenizers that the lab uses, under their names. A process that met
a limit is replaced at the next question. Whoever loads the same files again shares the process that read them, for to
start one takes a second; one that nobody needs any more serves the next folder.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from quantcore.model.bounded_process import BoundedProcess, Ended, Limits, Reported
from quantcore.model.locate import REFERENCE, SMALL_FILES, Place, require_plain
from quantcore.model.memory import free_memory

PROGRAM = Path(__file__).with_name("tokenizer_program.py")
LOAD_S = 60.0  # of 262,000 tokens in 36 MB: 3.3 s
LOAD_BYTES = 25  # of memory for a byte of its files; that one takes 17, others 22
ANSWER_S = 5.0
ANSWER_S_PER_MB = 10.0  # of text; ours takes 1 to 2.3 s a MB
MEMORY = 300_000_000
MOST_MEMORY = 1_250_000_000
MEMORY_PER_BYTE = 500  # of text, which is asked a piece at a time; measured: 200 to 400
LONGEST_FILE = 100_000_000
ANSWER = 32_000_000  # bytes, and so many more for a byte of the question:
ANSWER_PER_BYTE = 16  # ids of 8 bytes, one for each byte of the text at most
KEPT_FILES = 20_000_000  # a process that read more than that is not kept for the next folder
BLOCK = 64  # ids whose texts are asked for together
PROBE = 'The keeper lit 3 lamps: "é", 漢字, \U0001f600.\n\tif x == 1:'
WAY_OUT = "give another text, or another model"
MEND = "mend its files, or take another model"


def tokenizer_of(source: str, place: Place) -> Any:
    """The tokenizer that lies beside a model. Raises: ValueError where its files are larger than any tokenizer's."""
    if source == REFERENCE:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(place.folder, trust_remote_code=False)
    return BoundedTokenizer(source, place)


def require_ids(tokenizer: Any, vocabulary: int) -> None:
    """Tokenize a sentence, so that a tokenizer that cannot is told before any work, and hold all later ids to the
    model's vocabulary. Raises: ValueError."""
    if isinstance(tokenizer, BoundedTokenizer):
        tokenizer.vocabulary = vocabulary
        tokenizer(PROBE, verbose=False)


class BoundedTokenizer:
    """A stranger's tokenizer. Every method raises ValueError, in one sentence, where it fails or meets a limit.

    vocabulary    rows of the model's embedding table: ids beyond are refused; None where nobody has said
    """

    def __init__(self, source: str, place: Place) -> None:
        self.source = source
        self.vocabulary: int | None = None
        self._opened = _opened(source, place)

    @property
    def bos_token_id(self) -> int | None:
        found: int | None = self._opened.read(self.source)["bos_token_id"]
        return found

    @property
    def eos_token_id(self) -> int | None:
        found: int | None = self._opened.read(self.source)["eos_token_id"]
        return found

    @property
    def chat_template(self) -> Any:
        """Its text, or texts by name; None where there is none."""
        return self._opened.read(self.source)["chat_template"]

    def __len__(self) -> int:
        return int(self._opened.read(self.source)["size"])

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        """The text's ids, under `input_ids`."""
        content = text.encode("utf-8", "surrogatepass")
        question = {"do": "encode", "add_special_tokens": add_special_tokens, "verbose": verbose}
        try:
            _, behind = self._ask(question, len(content), content)
        except (Ended, Reported) as error:
            raise ValueError(f"{self._name} fails on a text of {len(text):,} characters ({error}); {WAY_OUT}") from None
        ids = array("q", behind)
        del behind  # a text of 20 MB is millions of tokens
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            raise ValueError(
                f"{self._name} gives the token {max(ids):,} and the model knows {self.vocabulary:,} tokens, so they do "
                "not belong together; take both from the same place"
            )
        return {"input_ids": ids.tolist()}

    def decode(self, ids: int | Sequence[int]) -> str:
        """The text of some ids. Of one id its neighbours' texts come along, for pages ask token by token."""
        run = [ids] if isinstance(ids, int) else [int(one) for one in ids]
        if len(run) != 1:
            return self.batch_decode([run])[0]
        block, place = divmod(run[0], BLOCK)
        texts = self._opened.texts
        if block not in texts:
            first = block * BLOCK
            texts[block] = self.batch_decode([[one] for one in range(first, first + BLOCK)])
        return texts[block][place]

    def batch_decode(self, runs: Sequence[Sequence[int]]) -> list[str]:
        """The text of each run of ids."""
        question = {"do": "decode", "runs": [[int(one) for one in ids] for ids in runs]}
        count = sum(map(len, question["runs"]))
        try:
            answer, _ = self._ask(question, 8 * count)
        except (Ended, Reported) as error:
            raise ValueError(f"{self._name} cannot give {count:,} tokens as text ({error}); {WAY_OUT}") from None
        found: list[str] = answer["texts"]
        return found

    def apply_chat_template(self, conversations: Sequence[Any], tokenize: bool = False) -> Any:
        """A conversation, a list of {"role", "content"}, as the text that the model reads; of a list of them, each.

        Raises: ValueError with half a sentence: what the template did."""
        if tokenize:
            raise ValueError("it is given as text alone; tokenize that")
        several = bool(conversations) and not isinstance(conversations[0], dict)
        asked = conversations if several else [conversations]
        length = sum(len(message["content"]) for one in asked for message in one)
        try:
            answer, _ = self._ask({"do": "chat", "conversations": asked}, length)
        except (Ended, Reported) as error:
            raise ValueError(getattr(error, "text", "") or str(error)) from None
        return answer["texts"] if several else answer["texts"][0]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write its files. Raises: OSError as the disk says it."""
        try:
            self._ask({"do": "save", "folder": str(Path(folder).absolute())}, self._opened.bytes)
        except Reported as error:
            if error.errno is not None:
                raise OSError(error.errno, error.text) from None
            raise ValueError(f"{self._name} cannot be written ({error}); {WAY_OUT}") from None
        except Ended as error:
            raise ValueError(f"{self._name} cannot be written ({error}); {WAY_OUT}") from None

    @property
    def _name(self) -> str:
        return f"the tokenizer of {self.source!r}"

    def _ask(self, question: dict[str, Any], length: int, content: bytes = b"") -> tuple[dict[str, Any], bytes]:
        seconds = ANSWER_S + ANSWER_S_PER_MB * length / 1e6
        limits = Limits(seconds, _memory(MEMORY_PER_BYTE * length), ANSWER + ANSWER_PER_BYTE * length)
        return self._opened.ask(self.source, question, content, limits)


class _Opened:
    """The files of a tokenizer, read by a process: what it said of them, and texts of tokens that were asked for."""

    def __init__(self, place: Place, size: int) -> None:
        self.bytes = size
        self.texts: dict[int, list[str]] = {}
        self._place = place
        self._facts: dict[str, Any] | None = None
        self._one = threading.RLock()
        self._with_torch = place.gguf is not None
        self._held = [_take(self._with_torch)]
        weakref.finalize(self, _leave, self._held, self._with_torch, size <= KEPT_FILES)

    def ask(
        self, source: str, question: dict[str, Any], content: bytes, limits: Limits
    ) -> tuple[dict[str, Any], bytes]:
        with self._one:
            self.read(source)
            return self._held[0].ask(question, content, limits)

    def read(self, source: str) -> dict[str, Any]:
        """What the files say, read where no living process has done so."""
        with self._one:
            if not self._held[0].alive:
                self._held[0].close()
                self._held[0], self._facts = _take(self._with_torch), None
            if self._facts is None:
                mapped = (self._place.folder / self._place.gguf).stat().st_size if self._place.gguf else 0
                limits = Limits(LOAD_S, _memory(LOAD_BYTES * self.bytes) + mapped, ANSWER)
                question = {"do": "load", "folder": str(self._place.folder.absolute()), "gguf": self._place.gguf}
                try:
                    self._facts, _ = self._held[0].ask(question, b"", limits)
                except (Ended, Reported) as error:
                    raise ValueError(f"could not load {source!r}: its tokenizer fails ({error}); {MEND}") from None
            return self._facts


_shared: weakref.WeakValueDictionary[Any, _Opened] = weakref.WeakValueDictionary()


def _opened(source: str, place: Place) -> _Opened:
    """That of whoever has the same files open, as they are now, or a new one."""
    size, key = _bytes_to_read(source, place), _state(place)
    with _lock:
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = _Opened(place, size)
        return found


def _state(place: Place) -> tuple[Any, ...]:
    """Which files a tokenizer may be made from, and when each was written."""
    files = [place.folder / place.gguf] if place.gguf else sorted(place.folder.iterdir())
    stats = [(file.name, file.stat()) for file in files if place.gguf or file.suffix in SMALL_FILES]
    written = tuple((name, one.st_size, one.st_mtime_ns, one.st_ino) for name, one in stats)
    return place.folder.absolute(), place.gguf, written


def _memory(more: int) -> int:
    """Bytes that an answer may take: no more than half of what the machine has free, and than any tokenizer needs."""
    found = _free_within(int(time.monotonic()))
    return min(MEMORY + more, MOST_MEMORY, *([found[0] // 2] if found else []))


@lru_cache(maxsize=1)
def _free_within(second: int) -> tuple[int, int] | None:
    """Memory that is free, looked at once a second: it is read from four files, and a page asks hundreds of times."""
    return free_memory(torch.device("cpu"))


def _bytes_to_read(source: str, place: Place) -> int:
    """Of the files that the tokenizer may be made from. Raises: ValueError for one that is none, or longer than any."""
    if place.gguf:
        return min(LONGEST_FILE, (place.folder / place.gguf).stat().st_size)
    files = [file for file in sorted(place.folder.iterdir()) if file.suffix in SMALL_FILES]
    require_plain(source, files)
    sizes = {file.name: file.stat().st_size for file in files}
    name = max(sizes, key=sizes.__getitem__, default="")
    if sizes.get(name, 0) > LONGEST_FILE:
        raise ValueError(
            f"could not load {source!r}: its {name} has {sizes[name] / 1e6:,.0f} MB and the limit of such a file is "
            f"{LONGEST_FILE / 1e6:.0f} MB; {MEND}"
        )
    return sum(sizes.values())


idle: dict[bool, BoundedProcess] = {}  # by whether they know torch: processes that wait for the next folder
_lock = threading.RLock()  # a tokenizer may be collected while it is held


def _take(with_torch: bool) -> BoundedProcess:
    """A process that waits, or a new one."""
    with _lock:
        waiting = idle.pop(with_torch, None)
    if waiting is not None:
        if waiting.alive:
            return waiting
        waiting.close()  # the system or somebody else ended it
    return BoundedProcess(PROGRAM, *(["with-torch"] if with_torch else []))


def _leave(held: list[BoundedProcess], with_torch: bool, reusable: bool) -> None:
    """A tokenizer is no longer needed: its process waits for the next one, or ends where one waits already."""
    (process,) = held
    with _lock:
        if reusable and process.alive and with_torch not in idle:
            idle[with_torch] = process
            return
    process.close()


@atexit.register
def close_idle() -> None:
    """End the processes that wait for a folder."""
    with _lock:
        for process in idle.values():
            process.close()
        idle.clear()
