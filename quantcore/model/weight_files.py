"""The files of a model's folder, read without loading a weight: which hold the weights, and what their headers say.

A safetensors header is a few kilobytes and names every tensor with its shape and type; opening the file also checks
that all of its bytes are there, so a download that broke off is known before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
HASHED = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises: ValueError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, not an object; download it again")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files that the index names, or model.safetensors, or all of them: a folder may hold two copies.

    Raises: ValueError where one that the index names is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{str(folder)!r} lacks {missing[0]}, which its index names; download it again")
    return files


def header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of every tensor of one file. Raises: ValueError for a file that is damaged or cut off."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
    except SafetensorError as error:
        size = file.stat().st_size
        raise ValueError(
            f"{str(file)!r} is no safetensors file, or a part of one ({size:,} bytes; {error}); download it again"
        ) from error


def parameters(folder: Path) -> dict[str, int]:
    """How many parameters of each type the folder's weights hold, such as {"BF16": 134515008}."""
    counts: Counter[str] = Counter()
    for file in weight_files(folder):
        for shape, dtype in header(file).values():
            counts[dtype] += math.prod(shape)
    return dict(counts)


def contents_hash(folder: Path) -> str:
    """SHA-256 over the configuration, the tokenizer and all weights of a folder, 16 digits; about a second a GB."""
    digest = hashlib.sha256()
    for file in [*(folder / name for name in HASHED if (folder / name).is_file()), *weight_files(folder)]:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file_digest(file))
    return digest.hexdigest()[:16]


def file_digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
