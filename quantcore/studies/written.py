"""A checkpoint that lies on the disk: what its own report says, its files, all of it as one .zip, and whether a reader
computes what we computed.

    found = written(folder)                       None where there is no whole checkpoint
    read_back(folder, quantized, tokens).perplexity
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from quantcore.export.export_report import REPORT_FILE
from quantcore.export.shards import StoredFile
from quantcore.measure.evaluate import compare
from quantcore.model.making import making
from quantcore.model.weight_files import read_json


@dataclass(frozen=True)
class Written:
    """facts: the ExportReport as it was kept. files: every file, with its size and SHA-256, largest first."""

    folder: Path
    facts: dict[str, Any]
    files: tuple[StoredFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def written(folder: Path) -> Written | None:
    """The checkpoint of `export_checkpoint` in a folder; None where there is none. Files whose size the report knows
    keep the hash that was taken as they were written, the others are read."""
    if not (folder / "config.json").is_file() or not (folder / REPORT_FILE).is_file():
        return None
    facts = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    known = {(one["name"], one["bytes"]): one["sha256"] for one in facts["files"]}
    files = [(path, path.stat().st_size) for path in folder.iterdir() if path.is_file()]
    stored = [StoredFile(path.name, size, known.get((path.name, size)) or _sha256(path)) for path, size in files]
    return Written(folder, facts, tuple(sorted(stored, key=lambda one: (-one.bytes, one.name))))


def as_zip(folder: Path) -> BinaryIO:
    """The folder as an open .zip file without a name, stored, not compressed: codes do not shrink. It is made on the
    disk, piece by piece, is not buffered, and goes when it is closed."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - whoever asked for it closes it
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    file.seek(0)
    return file


@dataclass(frozen=True)
class ReadBack:
    """The checkpoint, loaded by transformers, beside the quantized model that it was written from, on the same tokens.

    kl      mean KL(quantized || loaded), nats a token          same_top1   share of equal likeliest next tokens"""

    tokens: int
    perplexity: float
    perplexity_loaded: float
    kl: float
    same_top1: float


def read_back(folder: Path, quantized: nn.Module, tokens: Tensor) -> ReadBack:
    """Load the checkpoint as its user will, in float32, and read (windows, T) tokens with both models."""
    from transformers import AutoModelForCausalLM

    from quantcore.export.trial import read_by_transformers

    with making():
        loaded = read_by_transformers(AutoModelForCausalLM, folder, tokens[:1].cpu(), _runs_in(folder))
    nn.Module.to(loaded, next(quantized.parameters()).device)
    report = compare(quantized, loaded, tokens)
    return ReadBack(report.tokens, report.float_perplexity, report.perplexity, report.kl, report.top1_agreement)


def _runs_in(folder: Path) -> torch.dtype:
    """The type in which transformers first runs a checkpoint."""
    from quantcore.export.forms import runs_in

    entry = read_json(folder / "config.json")["quantization_config"]
    return runs_in(
        [str(group.get("format")) for group in entry["config_groups"].values()], bool(entry.get("dequantize"))
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
