"""Tensors become safetensors files, one after another; threads write and hash a full one while others fill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from quantcore.export.beside import Beside
from quantcore.model.staging import to_host
from quantcore.model.weight_files import INDEX, file_digest

SHARDS = 16  # files of a large model: enough for several threads, and so that the last one is quickly written
LEAST_SHARD, MOST_SHARD = 128 * 10**6, 512 * 10**6  # bytes


@dataclass(frozen=True)
class StoredFile:
    """One file of the checkpoint; sha256 in hex."""

    name: str
    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path, name: str | None = None) -> StoredFile:
        """The file, under another name if one is given."""
        return StoredFile(name or path.name, path.stat().st_size, file_digest(path).hex())


class Shards:
    """Files of at most `shard_bytes` (a larger tensor has its own) in a folder. One file: model.safetensors; several:
    numbered, with the index that names them. `writers` write them."""

    def __init__(self, folder: Path, shard_bytes: int, writers: Beside) -> None:
        self._folder, self._most, self._writers = folder, shard_bytes, writers
        self._held: dict[str, Tensor] = {}
        self._size = self._total = 0
        self._placed: dict[str, int] = {}
        self._written: dict[int, StoredFile] = {}
        self._count = 0

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """A module's tensors; they are brought to the CPU."""
        for key, tensor in tensors.items():
            if self._held and self._size + tensor.nbytes > self._most:
                self._flush()
            full = f"{name}.{key}" if name else key
            self._held[full] = to_host(tensor)
            self._placed[full] = self._count
            self._size, self._total = self._size + tensor.nbytes, self._total + tensor.nbytes

    def finish(self) -> tuple[dict[str, str], list[StoredFile]]:
        """The file of each tensor, and the files, once all are written."""
        self._flush()
        self._writers.finish()
        names = [f"model-{place + 1:05d}-of-{self._count:05d}.safetensors" for place in range(self._count)]
        if self._count == 1:
            names = ["model.safetensors"]
        for place, name in enumerate(names):
            self._shard(place).rename(self._folder / name)
        files = {tensor: names[place] for tensor, place in self._placed.items()}
        stored = [StoredFile(names[place], one.bytes, one.sha256) for place, one in sorted(self._written.items())]
        if self._count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": files}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
            stored.append(StoredFile.of(self._folder / INDEX))
        return files, stored

    def _flush(self) -> None:
        place, held = self._count, self._held
        self._count, self._held, self._size = self._count + 1, {}, 0

        def write() -> None:
            self._shard(place).touch()
            rights = self._shard(place).stat().st_mode  # as this process gives to files; safetensors leaves one user's
            save_file(held, self._shard(place), {"format": "pt"})
            self._shard(place).chmod(rights)
            held.clear()
            self._written[place] = StoredFile.of(self._shard(place))

        self._writers.do(write)

    def _shard(self, place: int) -> Path:
        return self._folder / f"shard-{place + 1}"


def shard_bytes_of(size: int) -> int:
    """Most bytes of one file of a checkpoint that takes `size` bytes."""
    return min(MOST_SHARD, max(LEAST_SHARD, size // SHARDS))
