"""Where a model lies: in quantcore/assets/, in a folder, in one GGUF file, or on the hub and then in the hub's cache.

    place = locate("HuggingFaceTB/SmolLM2-135M")             None while the cache does not have it
    place = fetch("HuggingFaceTB/SmolLM2-135M@93efa2f")      downloads what is missing; a revision may be named

A hub id that lies in the cache is taken from there, without a question to the network: what was loaded yesterday loads
today, offline too, at the same commit. The cache is the ecosystem's (`HF_HOME`), the token too (`HF_TOKEN`, or
`hf auth login`). Pickles are never downloaded and never opened. What a folder lacks is told from its listing, before
the first byte of a weight is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from quantcore.model.memory import require_memory, size
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
TIMEOUT_S = 10.0

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
    here = _local(source)
    if here is not None:
        return str(here.folder / here.gguf if here.gguf else here.folder)
    return _hub_id(source)[0]


def locate(source: str) -> Place | None:
    """Where `source` lies on this machine; None for a hub id of which the cache lacks anything. No network is asked.

    Raises: ValueError for what is neither a model's folder, nor a GGUF file, nor an id."""
    here = _local(source)
    return here if here is not None else _cached(*_hub_id(source))


def fetch(source: str, progress: Progress = quiet, to_load: bool = True) -> Place:
    """Where `source` lies on this machine, after a download if need be; `progress` may raise to end it. What is to be
    loaded whole and cannot is not downloaded.

    Raises: ValueError, in one sentence, where the hub does not give it, it has no safetensors, or there is no room."""
    here = locate(source)
    if here is not None:
        return here
    repo, revision = _hub_id(source)
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        return _download(repo, revision, progress, to_load)
    except HFValidationError as error:
        raise ValueError(f"{source!r} is no hub id; try {REFERENCE!r}, or owner/name") from error
    except (HTTPError, OSError) as error:
        raise ValueError(f"could not load {source!r}: {hub_problem(error)}") from error


def config_folder(source: str) -> Path | None:
    """The folder that holds the config.json of a hub's `owner/name@revision`, which alone is downloaded; None for what
    is no such id. Raises: ValueError, in half a sentence, where the hub does not give it."""
    match = HUB_ID.fullmatch(source)
    if match is None or "/" not in match["id"]:
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        file = hf_hub_download(match["id"], "config.json", revision=match["revision"], etag_timeout=TIMEOUT_S)
    except HFValidationError:
        return None
    except (HTTPError, OSError) as error:
        raise ValueError(hub_problem(error)) from error
    return Path(file).parent


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


def _hub_id(source: str) -> tuple[str, str]:
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


def _download(repo: str, revision: str, progress: Progress, to_load: bool) -> Place:
    """The repository's own files that a model and its tokenizer need, small ones first, each whole or not at all."""
    from huggingface_hub import HfApi, hf_hub_download

    progress(0.0, f"asking the hub for {repo}")
    info = HfApi().model_info(
        repo, revision=None if revision == "main" else revision, files_metadata=True, timeout=TIMEOUT_S
    )
    listed = {one.rfilename: one.size or 0 for one in info.siblings or () if "/" not in one.rfilename}
    require_safetensors(repo, listed)
    if "config.json" not in listed:
        raise ValueError(f"{repo!r} has no config.json, so it is no model that transformers can build; try another")
    weights = _weights_of(listed)
    names = sorted([name for name in listed if name.endswith(SMALL_FILES)] + weights, key=lambda name: listed[name])
    total = sum(listed[name] for name in names)
    if to_load:
        require_memory(repr(repo), sum(listed[name] for name in weights), torch.device("cpu"))
    _require_disk(repo, total)
    counted = _Bytes(total, progress)
    path = ""
    for name in names:
        path = hf_hub_download(repo, name, revision=info.sha, tqdm_class=counted.bar())
        counted.add_file(listed[name])
    _name_revision(Path(path).parents[2], revision, str(info.sha))
    return Place(Path(path).parent, commit=info.sha)


def _name_revision(repo_cache: Path, revision: str, sha: str) -> None:
    """Note in the cache which commit a branch or tag stands for, as the hub's own tools do: offline it is found."""
    if revision != sha:
        note = repo_cache / "refs" / revision
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(sha, encoding="utf-8")


def _weights_of(names: Iterable[str]) -> list[str]:
    """The safetensors files that make one copy of the model."""
    files = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors.index.json" in names:
        return [name for name in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)] or files
    return ["model.safetensors"] if "model.safetensors" in files else files


def _require_disk(repo: str, total: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = next(one for one in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ValueError(
            f"{repo!r} takes {size(total)} of disk and {str(folder)!r} has {size(free)} free; "
            "make room, or set HF_HOME to another disk"
        )


class _Bytes:
    """Adds up what the hub's progress bars count, over all files."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress = max(1, total), progress
        self.files = self.part = 0

    def bar(self) -> type[Any]:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        counted = self
        counted.part = 0

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **{**more, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                counted.part += int(n or 0)
                counted.tell()
                return None

        return Bar

    def add_file(self, count: int) -> None:
        self.files, self.part = self.files + count, 0
        self.tell()

    def tell(self) -> None:
        here = min(self.total, self.files + self.part)
        self.progress(here / self.total, f"downloading {size(here)} of {size(self.total)}")


def hub_problem(error: Exception) -> str:
    """Why the hub did not give something, as half a sentence with a way out."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated; accept its terms on its hub page, then log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such id, or shows it only to its members; check the name, or log in (`hf auth login`)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has the id but not this revision; leave out what follows the @"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub has the id but not this file; check the file's name"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answered {error.response.status_code}; try later, or use a model that is on this machine"
    if isinstance(error, PermissionError):
        return f"the hub's cache may not be written ({error.filename}); set HF_HOME to a folder of yours"
    return "the hub did not answer, or broke off (no network?); try again, or use 'reference' or a folder"
