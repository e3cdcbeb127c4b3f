"""What a tokenizer of a stranger's folder is asked, run in a `BoundedProcess`: load, encode, decode, chat, save.

transformers' own tokenizer does the work, in one process after the other the same; torch is kept out of it, which
saves most of the start, but where the tokenizer comes out of a GGUF file (`with-torch`).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

Answer = tuple[dict[str, Any], bytes]

if "with-torch" not in sys.argv:
    sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed", in the import system's words
else:
    import gguf

    gguf.GGUFReader = run_path(str(Path(__file__).with_name("gguf_reader.py")))["QuickReader"]  # type: ignore[misc]
from transformers import AutoTokenizer  # noqa: E402

LONGEST_TEMPLATE = 1_000_000
_loaded: dict[str, Any] = {}


def load(question: dict[str, Any], _: bytes) -> Answer:
    """Facts of the tokenizer in a folder, or in a GGUF file there; it takes the place of the one before."""
    _loaded.clear()
    gguf = {"gguf_file": question["gguf"]} if question["gguf"] else {}
    try:
        made = AutoTokenizer.from_pretrained(question["folder"], trust_remote_code=False, **gguf)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError("it is code of the model's author, and this lab runs none") from error
        raise
    made.init_kwargs.pop("local_files_only", None)  # how it was read is nothing to write into its files
    if drops := getattr(getattr(getattr(made, "backend_tokenizer", None), "model", None), "dropout", None):
        raise ValueError(f"it leaves out merges at random, {drops:.0%} of them, so no two readings of a text agree")
    template = made.chat_template
    if len(str(template or "")) > LONGEST_TEMPLATE:
        raise ValueError(f"its chat template has {len(str(template)):,} characters, the limit is {LONGEST_TEMPLATE:,}")
    _loaded["tokenizer"] = made
    return {
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        "chat_template": template,
        "size": len(made),
    }, b""


def encode(question: dict[str, Any], content: bytes) -> Answer:
    """A text's ids, as int64."""
    options = {name: question[name] for name in ("add_special_tokens", "verbose")}
    ids = _loaded["tokenizer"](content.decode("utf-8", "surrogatepass"), **options)["input_ids"]
    return {}, array("q", ids).tobytes()


def decode(question: dict[str, Any], _: bytes) -> Answer:
    """The texts of several runs of ids."""
    return {"texts": [_loaded["tokenizer"].decode(ids) for ids in question["runs"]]}, b""


def chat(question: dict[str, Any], _: bytes) -> Answer:
    """Conversations in the chat template."""
    told = _loaded["tokenizer"].apply_chat_template
    return {"texts": [told(one, tokenize=False) for one in question["conversations"]]}, b""


def save(question: dict[str, Any], _: bytes) -> Answer:
    """The tokenizer's files, into a folder."""
    _loaded["tokenizer"].save_pretrained(question["folder"])
    return {}, b""


ANSWERS: dict[str, Callable[[dict[str, Any], bytes], Answer]] = {
    "load": load,
    "encode": encode,
    "decode": decode,
    "chat": chat,
    "save": save,
}
