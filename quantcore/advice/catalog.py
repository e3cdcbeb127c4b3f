"""Models that are known without their files: 70 shapes, offline; and the shape of any other, from config.json alone.

    shape_of("meta-llama/Llama-3.2-3B")     from the catalogue
    shape_of("some/folder")                 from the folder's config.json; weights need not be there
    shape_of("config.json")                 from the file itself
    shape_of("model.gguf")                  from a GGUF file's header
    shape_of("owner/name@revision")         from the hub's config.json, which alone is downloaded

The rows stand in assets/models.json, a line each: the configuration's entries that shapes depend on, where they were
read and when, and the parameters that transformers builds from them. Each was checked by that total and by the share
that a token passes: they agree with what the models' names and papers say (Qwen3-30B-A3B: 30.5 and 3.0 billion). Of
models read from litgpt's table, which does not say whether the head is the embedding table, the total told that too.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantcore.advice.shape import ServedShape, served_shape
from quantcore.model.config_file import read_config, require_counts
from quantcore.model.hub import config_folder
from quantcore.model.inventory import outline
from quantcore.model.locate import ASSETS, REFERENCE
from quantcore.model.named_path import named_path
from quantcore.model.sentences import named
from quantcore.model.skeleton import build

FILE = ASSETS / "models.json"
MOST_TENSORS = 40_000  # that a configuration without files may describe


@dataclass(frozen=True)
class Known:
    """A row: `config` is what transformers builds from, `active` the parameters of matrices that a token passes."""

    id: str
    parameters: int
    active: int
    source: str
    looked_up: str
    config: dict[str, Any]


@lru_cache
def catalogue() -> dict[str, Known]:
    """All rows by the model's id, smallest first."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    return {row["id"]: Known(**row) for row in rows}


def shape_of(model: str) -> ServedShape:
    """The shape of a model by its id in the catalogue (with or without its owner), its folder, its config.json, its
    GGUF file, or its hub id.

    Raises: ValueError for a name that is none of these, for what the hub does not give, and for a configuration that
    transformers cannot build or whose cache is not known here."""
    return _found(model, _stamp(model))


def _stamp(model: str) -> tuple[str, int, int] | None:
    """Of what is here: the file that tells its shape, when that was written, and its bytes."""
    path = named_path(model)
    told = next((one for one in (path / "config.json", path) if one.is_file()), None)
    return None if told is None else (str(told.resolve()), told.stat().st_mtime_ns, told.stat().st_size)


@lru_cache(maxsize=64)
def _found(model: str, _: tuple[str, int, int] | None) -> ServedShape:
    """`shape_of`, kept as long as what is here stays as it was."""
    if (known := _named(model)) is not None:
        return _built(model, known.config)
    path = named_path(model)
    if path.suffix == ".gguf" and path.is_file() and (built := outline(model)) is not None:
        return served_shape(model, built)
    if model == REFERENCE:
        path = ASSETS / "reference-lm"
    folder = path.parent if path.name == "config.json" else path
    if not (folder / "config.json").is_file():
        if path.exists():  # nothing to ask the hub for
            raise ValueError(
                f"{named(model)} is there and holds no model's shape; name a folder with a config.json, that file, or "
                "a GGUF file"
            )
        unknown = f"{named(model)} is not among the {len(catalogue())} models of the catalogue{_near(model)}"
        try:
            fetched = config_folder(model)
        except ValueError as error:
            raise ValueError(f"{unknown}, and {error}; or download its config.json and name that file") from error
        if fetched is None:
            raise ValueError(
                f"{unknown}, no folder with a config.json and no hub id; name owner/name, or a config.json file"
            )
        folder = fetched
    try:
        config = read_config(folder)
        require_counts(config, None, None)
    except ValueError as error:
        raise ValueError(f"could not load {named(model)}: {error}") from error
    return _shape(model, folder, config)


def _named(model: str) -> Known | None:
    found = catalogue()
    if model in found:
        return found[model]
    alike = [one for name, one in found.items() if name.partition("/")[2].lower() == model.lower()]
    return alike[0] if len(alike) == 1 else None


def _near(model: str) -> str:
    """Names of the catalogue that are almost the same, for a refusal."""
    short = {name.rpartition("/")[2].lower(): name for name in catalogue()}
    alike = get_close_matches(model.rpartition("/")[2].lower(), short, n=2, cutoff=0.8)
    return f" (did you mean {' or '.join(short[one] for one in alike)}?)" if alike else ""


def _built(model: str, config: dict[str, Any]) -> ServedShape:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return served_shape(model, build(model, Path(folder), MOST_TENSORS))


def _shape(model: str, folder: Path, config: dict[str, Any]) -> ServedShape:
    """A config.json of a model that was quantized before describes the same shapes."""
    bare = {name: value for name, value in config.items() if name not in ("quantization_config", "auto_map")}
    return _built(model, bare) if bare != config else served_shape(model, build(model, folder, MOST_TENSORS))
