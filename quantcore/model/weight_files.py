"""The files of a model's folder, read without loading a weight: which hold the weights, and what their headers say.

A safetensors header is a few kilobytes and names every tensor with its shape and type; opening the file also checks
that all of its bytes are there, so a download that broke off is known before anything is loaded. Nothing here believes
a number that a file gives of itself: headers, JSON and indices of more than they can need are refused unread.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcore.model.sentences import named, quoted, reason

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
HASHERS = max(1, (os.cpu_count() or 1) // 2)  # threads
HASHED = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")
INDEX = "model.safetensors.index.json"
MIB = 2**20
JSON_BYTES = 64 * MIB  # tokenizer.json of 262,144 tokens has 33 MB
HEADER_BYTES = 16 * MIB  # of one file
MOST_HEADERS = 64 * MIB  # of all; those of a model of 10^12 parameters in 384 experts a block have 20 MB
LONGEST_NAME = 255  # bytes, of a file
DEEPEST = 64  # levels of JSON; configurations nest five or six


@dataclass(frozen=True)
class Stored:
    """A tensor as its file's header has it; dtype in safetensors' words (BF16, F32, I8 ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def read_json(path: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """A JSON object. Raises: ValueError for anything else, for more than `most` bytes, and for what no configuration
    holds: NaN, and objects inside one another without end."""
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path.name} has {size:,} bytes and {most:,} are read at most; download it again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant)
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON ({reason(error, 120)}); download it again") from error
    except RecursionError:
        raise ValueError(f"{path.name} nests deeper than {DEEPEST} levels; download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not an object; download it again")
    if (depth := _depth(content)) > DEEPEST:
        raise ValueError(f"{path.name} nests {depth} levels deep and {DEEPEST} are read at most; download it again")
    return content


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("it holds NaN, which is no number")
    return float(name)


def _depth(content: Any) -> int:
    """How many levels of objects and lists lie inside one another."""
    depth, level = 0, [content]
    while level:
        depth += 1
        inside = [one.values() if isinstance(one, dict) else one for one in level]
        level = [part for parts in inside for part in parts if isinstance(part, (dict, list))]
    return depth


def weight_files(folder: Path) -> list[Path]:
    """The files that the index names, or model.safetensors, or all of them: a folder may hold two copies.

    Raises: ValueError where one that the index names is missing, or lies outside of the folder."""
    if (folder / INDEX).is_file():
        files = [_inside(folder, name) for name in sorted(set(_weight_map(folder).values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{named(folder)} lacks {quoted(missing[0])}, which its index names; download it again")
    return files


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder's weight files, from their headers.

    Raises: ValueError for a damaged file, a tensor that two files hold, one that the index places where it is not."""
    found: dict[str, Stored] = {}
    read = 0
    for file in weight_files(folder):
        tensors = header(file)
        read += _header_bytes(file)
        if read > MOST_HEADERS:
            raise ValueError(f"its files' headers have more than {MOST_HEADERS:,} bytes; download it again")
        for name, (shape, dtype) in tensors.items():
            if name in found:
                raise ValueError(
                    f"{quoted(name)} is both in {quoted(found[name].file.name)} and in {quoted(file.name)}, so which "
                    "one counts cannot be told; delete the file that is not the model's, or download it again"
                )
            found[name] = Stored(file, shape, dtype)
    if (folder / INDEX).is_file():
        for name, place in _weight_map(folder).items():
            if name not in found or found[name].file.name != Path(place).name:
                raise ValueError(
                    f"its index says that {quoted(name)} is in {quoted(place)}, which lacks it; download it again"
                )
    return found


def header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of every tensor of one file. Raises: ValueError for a file that is damaged or cut off."""
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    if (length := _header_bytes(file)) > HEADER_BYTES:
        raise ValueError(
            f"{quoted(file)} is no safetensors file, or a damaged one: its header should have {length:,} bytes, and "
            f"{HEADER_BYTES:,} are read at most; download it again"
        )
    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(
            f"{quoted(file)} is no safetensors file, or a part of one ({size:,} bytes; {reason(error, 120)}); "
            "download it again"
        ) from error


def _header_bytes(file: Path) -> int:
    """What the file says of its header's length, in its first eight bytes."""
    with file.open("rb") as opened:
        return int.from_bytes(opened.read(8), "little")


def _weight_map(folder: Path) -> dict[str, str]:
    """Name -> file, as the index has it. Raises: ValueError where it is longer than the headers that it repeats."""
    headers = sum(_header_bytes(file) for file in folder.glob("*.safetensors") if file.is_file())
    found = read_json(folder / INDEX, min(JSON_BYTES, 2 * headers + MIB)).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(place, str) for place in found.values()):
        raise ValueError(f"{INDEX} holds no weight_map of tensors' names to files' names; download it again")
    return found


def _inside(folder: Path, name: str) -> Path:
    """The file of that name in the folder. Raises: ValueError for a path that leads anywhere else; only the links of
    the hub's cache, from a snapshot to its blobs, are followed."""
    written = name.encode("utf-8", "replace")
    if written.decode() != name or len(written) > LONGEST_NAME:
        raise ValueError(f"{INDEX} names {quoted(written.decode())}, which no file can be called; download it again")
    file = folder / name
    home = folder.resolve()
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    inside = "\0" not in name and Path(name).name == name
    if not inside or file.resolve().parent not in (home, blobs):
        raise ValueError(f"{INDEX} leads out of its folder, to {quoted(name)}; put the file beside it")
    return file


def contents_hash(folder: Path) -> str:
    """SHA-256 over the configuration, the tokenizer and all weights of a folder, 16 digits; about a second a GB
    of the largest file, as files are read on several threads."""
    digest = hashlib.sha256()
    files = [*(folder / name for name in HASHED if (folder / name).is_file()), *weight_files(folder)]
    with ThreadPoolExecutor(HASHERS) as threads:
        for file, found in zip(files, threads.map(file_digest, files), strict=True):
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            digest.update(found)
    return digest.hexdigest()[:16]


def file_digest(file: Path) -> bytes:
    """SHA-256 of a file, in pieces so large that other threads are seldom held up."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(4 * MIB))
    with file.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            digest.update(buffer[:count])
    return digest.digest()
