"""Where a model lies on this machine: in quantcore/assets/, in a folder, in one GGUF file, or in the hub's cache.

    place = locate("HuggingFaceTB/SmolLM2-135M@93efa2f")     a revision may be named; None while the cache lacks it

A hub id that lies in the cache is taken from there, without a question to the network: what was loaded yesterday loads
today, offline too, at the same commit. The cache is the ecosystem's (`HF_HOME`). Pickles are never opened. What a
folder lacks is told from its listing. What is not here comes by `model.hub`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from quantcore.model.named_path import cause, named_path
from quantcore.model.sentences import named, quoted, reason
from quantcore.model.weight_files import INDEX, PICKLES, contents_hash, file_digest, weight_files

ASSETS = Path(__file__).resolve().parents[1] / "assets"
REFERENCE = "reference"
HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")
TOKENIZERS = ("tokenizer*", "vocab.*", "*.tiktoken", "spiece.model", "sentencepiece*")
SMALL_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
ADAPTER = "adapter_config.json"
READ = (*SMALL_FILES, ".safetensors")
CONVERT = "convert it once, where you trust it, with AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)"

Progress = Callable[[float, str], None]  # the share that is done, 0..1, and what is being done


def quiet(_share: float, _doing: str) -> None:
    """No progress."""


@dataclass(frozen=True)
class Place:
    """A model on this machine: a folder in the transformers format, or one file in it; `commit` of a hub snapshot."""

    folder: Path
    gguf: str | None = None
    commit: str | None = None

    @cached_property
    def revision(self) -> str:
        """What pins the contents: the hub's commit, else `sha256:` and a hash of configuration, tokenizer, weights,
        which takes a second or more a GB the first time."""
        if self.commit is not None:
            return self.commit
        if self.gguf is not None:
            return f"sha256:{file_digest(self.folder / self.gguf).hex()[:16]}"
        return f"sha256:{contents_hash(self.folder)}"


def source_path(source: str) -> str:
    """What transformers should open for `source`: a folder, a GGUF file, or a hub id without its revision.

    Raises: ValueError if it is none of them."""
    here = _path(source)
    return hub_id(source)[0] if here is None else here


def source_in_full(source: str) -> str:
    """`source` as a program in another folder names it: a path from the root on, or the hub id and its revision.

    Raises: ValueError if it is none of them."""
    here = _path(source)
    if here is None:
        hub_id(source)
    return here or source


def _path(source: str) -> str | None:
    """The folder or GGUF file; None where `source` is neither."""
    here = _local(source)
    return None if here is None else str(here.folder / (here.gguf or ""))


def locate(source: str) -> Place | None:
    """Where `source` lies on this machine; None for a hub id of which the cache lacks anything. No network is asked.

    Raises: ValueError for what is neither a model's folder, nor a GGUF file, nor an id."""
    here = _local(source)
    return here if here is not None else _cached(*hub_id(source))


def _local(source: str) -> Place | None:
    if source == REFERENCE:
        return Place(ASSETS / "reference-lm")
    path = named_path(source)
    try:
        if path.is_file():
            return _gguf(source, path)
        if not path.is_dir():
            return None
        if not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError
        return _folder(source, path)
    except PermissionError as error:
        raise ValueError(
            f"{named(source)} may not be read by this user; give the right to (chmod -R a+rX), or copy it"
        ) from error
    except (OSError, RuntimeError) as error:  # a name that is too long, a ~user that nobody is, a disk that fails
        raise ValueError(f"{named(source)} cannot be read ({reason(error, 120)}); name a folder, or a file") from error


def _gguf(source: str, path: Path) -> Place:
    try:
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return Place(path.parent.resolve(), path.name)
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(f"{named(source)} cannot be read ({cause(error)}); name a GGUF file, or a folder") from error
    if path.suffix in PICKLES:
        raise ValueError(f"{named(source)} is a pickle, which can run code when it is opened; {CONVERT}")
    raise ValueError(f"{named(source)} is a file but no GGUF; name a GGUF file, or the folder that config.json is in")


def _folder(source: str, folder: Path) -> Place:
    names = sorted(one.name for one in folder.iterdir())
    require_plain(source, [folder / name for name in names if name.endswith(READ)])
    if ADAPTER in names:  # its base alone would be measured
        raise ValueError(
            f"{named(source)} holds an adapter ({ADAPTER}), which is not read here; merge it into its model "
            "(merge_and_unload) and name the merged one's folder"
        )
    if "config.json" not in names:
        out = next((f"name one of its GGUF files, such as {one.name}" for one in sorted(folder.glob("*.gguf"))), None)
        raise ValueError(
            f"{named(source)} is a folder without config.json, so it is no model; {out or 'name a transformers folder'}"
        )
    if INDEX not in names:  # an index says itself which of its files is not there
        require_safetensors(source, names)
    if not all(os.access(folder / name, os.R_OK) for name in names if name.endswith(READ)):
        raise PermissionError
    return Place(folder, commit=_commit_of(folder))


def require_plain(source: str, files: Iterable[Path]) -> None:
    """Raises: ValueError for a pipe, a device, a folder, or a link that leads nowhere: it would be waited for, or read
    without end."""
    if odd := next((one.name for one in files if not one.is_file()), None):
        raise ValueError(f"could not load {named(source)}: its {quoted(odd)} is no plain file; put the file there")


def require_safetensors(source: str, names: Iterable[str]) -> None:
    """Raises: ValueError where none of a model's files is a safetensors file; pickles are refused by name."""
    names = sorted(names)
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise ValueError(
            f"{named(source)} holds no *.safetensors weights but {pickles[0]}, a pickle, which can run code when it is "
            f"opened; {CONVERT}"
        )
    ggufs = [name for name in names if name.endswith(".gguf")]
    out = f"download one of its {len(ggufs)} GGUF files and name it" if ggufs else "name a model that does"
    raise ValueError(f"{named(source)} holds no *.safetensors weights; {out}")


def hub_id(source: str) -> tuple[str, str]:
    """The repository and the revision, `main` where none is named."""
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise ValueError(
            f"{named(source)} is neither a folder that exists nor a hub id; try {REFERENCE!r}, or owner/name"
        )
    return match["id"], match["revision"] or "main"


def _cached(repo: str, revision: str) -> Place | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repo, "config.json", revision=revision)
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        whole = bool(weight_files(folder)) and any(any(folder.glob(pattern)) for pattern in TOKENIZERS)
    except ValueError:  # a part that the index names has not arrived
        return None
    return Place(folder, commit=folder.name) if whole else None


def _commit_of(folder: Path) -> str | None:
    """The commit, where the folder is a snapshot in a hub cache: .../snapshots/<40 digits>."""
    path = folder.resolve()
    return path.name if path.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", path.name) else None
