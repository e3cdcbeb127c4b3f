"""Changes to a good model's folder, of which broken ones are made: `config(vocab_size=0)(folder)` makes one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Change = Callable[[Path], object]

INDEX, GENERATION = "model.safetensors.index.json", "generation_config.json"


def config(**more: Any) -> Change:
    """Other entries in config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | more))

    return change


def text(content: str | bytes, file: str = "config.json") -> Change:
    """A file of another content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def place(name: str, put: Change) -> Change:
    """Something else at the place of a file."""

    def replace(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        put(folder / name)

    return replace


def weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Change:
    """Other tensors."""

    def rewrite(folder: Path) -> None:
        tensors = change(load_file(folder / "model.safetensors"))
        save_file(
            {name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
        )

    return rewrite


def without(*parts: str) -> Change:
    return weights(lambda held: {name: one for name, one in held.items() if not any(part in name for part in parts)})


def named(rename: Callable[[str], str]) -> Change:
    return weights(lambda held: {rename(name): one for name, one in held.items()})


def besides(**more: Tensor) -> Change:
    """Further tensors; __ in a name stands for a dot."""
    return weights(lambda held: held | {name.replace("__", "."): one for name, one in more.items()})


def at(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    return weights(lambda held: held | {name: change(held[name])})


def coded(parts: Callable[[Tensor], dict[str, Tensor]]) -> Change:
    """Each projection's weight replaced by what a quantizer writes: ".qweight" and so on, behind the layer's name."""

    def change(held: dict[str, Tensor]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for name, one in held.items():
            layer = name.removesuffix(".weight")
            made |= (
                {layer + end: new for end, new in parts(one).items()} if name.endswith("_proj.weight") else {name: one}
            )
        return made

    return weights(change)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def sharded(place: Callable[[str, str], str] = lambda _, file: file, move: str = "", twice: str = "") -> Change:
    """Two files and an index. place: what the index says instead of (tensor, file); move: a tensor that lies in the
    other file than the index says; twice: one that lies in both."""

    def change(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        said = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(held))}
        for file in sorted(set(said.values())):
            inside = {n: one for n, one in held.items() if (said[n] == file) != (n == move) or n == twice}
            save_file(inside, folder / file, {"format": "pt"})
        index = {name: new for name, file in said.items() if (new := place(name, file))}
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))

    return change


def elsewhere(path: Callable[[Path], str], link: bool = False) -> Change:
    """The weights in a folder beside, and an index that leads there."""

    def change(folder: Path) -> None:
        other = folder.parent / "elsewhere"
        other.mkdir()
        names = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(other / "model.safetensors")
        if link:
            (folder / "linked.safetensors").symlink_to(other / "model.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, path(other))}))

    return change


def header_of(length: int, size: int | None = None) -> Change:
    """A weight file that says its header has so many bytes; `size` of the file itself, the rest of it zeros."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
        if size:
            os.truncate(folder / "model.safetensors", size)

    return change


def deep(levels: int) -> str:
    return '{"model_type": "llama", "deep": ' + "[" * levels + "]" * levels + "}"


def i32(one: Tensor) -> Tensor:
    return torch.zeros(one.shape[0] // 8, one.shape[1], dtype=torch.int32)


def u8(one: Tensor) -> Tensor:
    return torch.zeros(one.numel() // 2, 1, dtype=torch.uint8)


def scales(one: Tensor, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.ones(one.shape[0], 1, dtype=dtype)


def ranks(one: Tensor) -> Tensor:
    return torch.zeros(one.shape[1], dtype=torch.int32)


def say(folder: Path, name: str) -> None:
    """Let the index name one tensor more."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = sorted(index["weight_map"].values())[0]
    (folder / INDEX).write_text(json.dumps(index))
