"""What is loaded is what the files say: a folder that does not hold its model is refused, whole and streamed alike, in
one sentence that names the fault and the way out, before a weight is read; and no folder that does is refused."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quantcore.measure.store import model_hash
from quantcore.model import integrity, loading
from quantcore.model.config_file import require_counts
from quantcore.model.loading import LoadedModel, load_model
from quantcore.model.streamed import StreamedModel
from tests.model.broken_folders import BROKEN, DOWN, GOOD
from tests.model.changes import at, besides, config, weights
from tests.model.test_kinds_of_files import saved

WAYS: dict[str, Callable[[str, str], Any]] = {"whole": load_model, "streamed": StreamedModel}


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tried", BROKEN)
def test_refused(tried: str, way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, sentence = BROKEN[tried]
    change(folder)
    monkeypatch.setattr(loading, "_opened", None)  # refused before a weight is read
    with pytest.raises(ValueError, match=sentence) as no:
        WAYS[way](str(folder), "cpu")
    said = str(no.value)
    assert str(folder) in said or folder.name in said
    assert len(said) < 400, said
    assert "\n" not in said
    assert "; " in said, "the way out stands behind a semicolon"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["model.norm", "model.layers.1.input_layernorm", "model.embed_tokens"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_no_layer_is_to_blame_for_is_refused_before_the_work(
    name: str, value: float, way: str, folder: Path
) -> None:
    at(f"{name}.weight", lambda one: one.index_fill(0, torch.tensor(7), value))(folder)
    sentence = f"its '{name}.weight' holds NaN or infinity .{value:g} to .*; download it again"
    with pytest.raises(ValueError, match=sentence):
        WAYS[way](str(folder), "cpu")


@pytest.mark.parametrize("tried", GOOD)
def test_not_refused(tried: str, folder: Path, tiny_lm: LoadedModel) -> None:
    GOOD[tried](folder)
    loaded, streamed = load_model(str(folder), "cpu"), StreamedModel(str(folder), "cpu")
    assert model_hash(loaded.model) == model_hash(streamed)
    assert (model_hash(loaded.model) == model_hash(tiny_lm.model)) == (tried != "in half precision")


# ---------------------------------------------------------------- limits


def test_the_hubs_cache_links_from_a_snapshot_to_its_blobs(tiny_model_dir: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--tiny--lm" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--tiny--lm" / "blobs"
    shutil.copytree(tiny_model_dir, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    names = dict.fromkeys(load_file(blobs / "model.safetensors"), "model.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert load_model(str(snapshot), "cpu").revision == "a" * 40
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tiny_model_dir / "model.safetensors")
    with pytest.raises(ValueError, match="leads out of its folder, to 'model.safetensors'; put the file beside it"):
        load_model(str(snapshot), "cpu")


def test_a_model_of_more_parts_than_its_files_can_become(folder: Path) -> None:
    """As many blocks as the files hold tensors, 21, would be 192 parameters; 21 tensors become at most 4 each."""
    config(num_hidden_layers=21)(folder)
    for way in WAYS.values():
        with pytest.raises(ValueError, match=r"describes a model of more parameters than its files can hold \(84\)"):
            way(str(folder), "cpu")


def test_no_model_has_a_hundred_thousand_blocks_however_many_tensors_its_files_hold() -> None:
    """To build them, empty, would take over a minute and a GB."""
    for name in ("num_hidden_layers", "n_layer"):
        with pytest.raises(ValueError, match=f"{name} = 100,000, and no model is known of more than 1,000 blocks"):
            require_counts({name: 100_000}, 200_000, 10**9)
        require_counts({name: 126}, 1000, 10**9)
    require_counts({"num_labels": 5000}, 200_000, 10**9)  # no blocks


def test_memory_is_asked_for_the_model_that_config_describes(
    tmp_path: Path, tiny_lm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-J's table of positions lies in no file: 10^7 of them x 4 numbers x 4 bytes are 152.6 MiB, and
    transformers holds one for all blocks."""
    saved("GPTJ", tmp_path, tiny_lm.tokenizer)
    monkeypatch.setattr("quantcore.model.memory.free_memory", lambda _: (10 * 2**20, 2**30))
    assert load_model(str(tmp_path), "cpu").model
    config(n_positions=10**7)(tmp_path)
    with pytest.raises(
        ValueError, match=r"40\.0 M parameters as float32, needs 152\.\d MiB of memory and this machine"
    ):
        load_model(str(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("said", "stored", "expected"),
    [
        ("bfloat16", torch.float32, torch.bfloat16),
        (None, torch.float16, torch.float16),
        ("int8", torch.bfloat16, torch.bfloat16),
        ("float8_e4m3fn", torch.float16, torch.float16),
    ],
)
def test_the_type_of_a_model_on_a_gpu(
    said: str | None, stored: torch.dtype, expected: torch.dtype, folder: Path
) -> None:
    """config.json's, where it is one to compute in; else that of the weights."""
    config(dtype=said)(folder)
    weights(lambda held: {name: one.to(stored) for name, one in held.items()})(folder)
    assert integrity.examine(str(folder), folder).dtype == expected


def test_the_report_of_the_load_itself_is_checked_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the questions to the headers miss something: transformers would only warn."""
    besides(model__extra__weight=torch.ones(2, 2))(folder)
    monkeypatch.setattr(integrity, "_require_placed", lambda *_: None)
    with pytest.raises(ValueError, match="could not load .* its files hold 'model.extra.weight', for which the model"):
        load_model(str(folder), "cpu")
    weights(lambda held: {name: one for name, one in held.items() if name not in (DOWN, "model.extra.weight")})(folder)
    with pytest.raises(ValueError, match=f"could not load .* its files lack '{DOWN}', which would be random numbers"):
        load_model(str(folder), "cpu")
    weights(lambda held: held | {DOWN: torch.ones(3, 3)})(folder)
    with pytest.raises(ValueError, match=rf"could not load .*'{DOWN}' has shape \(3, 3\) in its files"):
        load_model(str(folder), "cpu")


def test_names_of_any_length_and_kind_stay_in_one_sentence(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("m" * 200) / ("n" * 200)
    folder.parent.mkdir()
    shutil.copytree(tiny_model_dir, folder)
    besides(**{"x\n\u2028\x1b[31m" * 1000 + ".weight": torch.ones(1)})(folder)
    for way in WAYS.values():
        with pytest.raises(ValueError, match="for which the model of its config.json has no place") as no:
            way(str(folder), "cpu")
        assert len(str(no.value)) < 400
        assert str(no.value).isprintable()


LIMITED = """
import resource, sys
import torch, transformers
from quantcore.model.loading import load_model
from quantcore.model.streamed import StreamedModel
torch.ones(2**20).sqrt()
load_model(sys.argv[1], "cpu")
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
allowed = int(lines["VmData"].split()[0]) * 1024 + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
for folder in sys.argv[3:]:
    for way in (load_model, StreamedModel):
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            way(folder, "cpu")
            raise SystemExit(f"{folder} was loaded")
        except ValueError as error:
            after = resource.getrusage(resource.RUSAGE_SELF)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if spent > 10:
                raise SystemExit(f"{folder}: {spent} s")
"""
HOSTILE = (
    "a million blocks", "10^18 blocks", "10^9 labels", "10^9 heads", "a width of 10^12", "config.json of 5 MB",
    "config.json 10,000 levels deep", "a header of 99 MB", "a header of 2^63 bytes", "an index longer than the headers",
)  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit on a process's data is Linux's")
def test_what_is_hostile_takes_no_memory_and_no_time(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Within 200 MB, which the kernel enforces, and 10 s of the processor's time each."""
    folders = []
    for tried in HOSTILE:
        folders.append(shutil.copytree(tiny_model_dir, tmp_path / tried.replace(" ", "_").replace(",", "")))
        BROKEN[tried][0](folders[-1])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny_model_dir), str(200 * 10**6), *map(str, folders)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
