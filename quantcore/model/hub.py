"""What is downloaded from the hub, and why something was not.

    place = fetch("HuggingFaceTB/SmolLM2-135M@93efa2f")   what is missing, into its cache

The cache is the ecosystem's (`HF_HOME`), the token too (`HF_TOKEN`, or `hf auth login`). Of a repository come its own
files that a model and its tokenizer need, pickles never. What it lacks is told from its listing, before the first byte
of a weight is fetched.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from quantcore.model.locate import (
    HUB_ID,
    REFERENCE,
    SMALL_FILES,
    Place,
    Progress,
    hub_id,
    locate,
    quiet,
    require_safetensors,
)
from quantcore.model.memory import require_memory, size

TIMEOUT_S = 10.0  # for the hub's answer, not for a file


def fetch(source: str, progress: Progress = quiet, to_load: bool = True) -> Place:
    """Where `source` lies on this machine, after a download if need be; `progress` may raise to end it. What is to be
    loaded whole and cannot is not downloaded.

    Raises: ValueError, in one sentence, where the hub does not give it, it has no safetensors, or there is no room."""
    here = locate(source)
    if here is not None:
        return here
    repo, revision = hub_id(source)
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
